"""What one step of the target model costs: seconds over (tokens, sequences, context). No clock, no I/O.

A step streams the weights once, computes something for every token, and reads the keys and values of every sequence. How
these overlap differs by runtime and machine, and the curve over tokens has flat stretches and jumps, so its shape is
measured and not assumed: a piecewise linear, never falling function of the tokens, plus a price per sequence and per token
of context. `step_cost_estimate` learns it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

KNOTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096)
"""Tokens of a step between which its cost is taken to be straight."""


@dataclass(frozen=True, slots=True)
class StepShape:
    """What a step was made of.

    `tokens` were computed over all sequences, `sequences` had a part in it, and `context_tokens` had keys and values
    already, summed over those sequences.
    """

    tokens: int
    sequences: int
    context_tokens: int

    @property
    def plain(self) -> bool:
        """No sequence had more than one token."""
        return self.tokens <= self.sequences


def load_class(sequences: int) -> int:
    """Loads within a factor of two are of one class."""
    return max(sequences, 1).bit_length()


@dataclass(frozen=True, slots=True)
class Curve:
    """Seconds over tokens, straight between the points: `tokens` [n] rise, `seconds` [n] never fall."""

    tokens: NDArray[np.float64]
    seconds: NDArray[np.float64]

    def at(self, tokens: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
        """Seconds [m] for each of the token counts [m]; above the last point the last slope goes on."""
        found = np.interp(tokens, self.tokens, self.seconds)
        rise = (self.seconds[-1] - self.seconds[-2]) / (self.tokens[-1] - self.tokens[-2])
        return np.asarray(found + np.maximum(tokens - self.tokens[-1], 0) * rise, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class StepCost:
    """Seconds of a step; made by a `StepCostEstimate`, or by hand for a simulator.

    `knot_seconds` [len(KNOTS)] never falls. `curves` stand in its place at loads of their class, and `plain` for steps of one
    token a sequence: where those fill what the machine computes at once, the first draft token costs a jump.
    All of it times `pace`.
    """

    knot_seconds: NDArray[np.float64]
    sequence_seconds: float = 0.0
    context_token_seconds: float = 0.0
    curves: Mapping[int, Curve] = field(default_factory=dict)
    plain: Curve | None = None
    pace: float = 1.0

    def by_tokens(
        self, tokens: NDArray[np.int64], sequences: int, context_tokens: int
    ) -> NDArray[np.float64]:
        """Seconds [n] for each of the token counts [n], all at least 1."""
        curve = self.curves.get(load_class(sequences)) or Curve(KNOT_ARRAY, self.knot_seconds)
        seconds = curve.at(tokens)
        if self.plain is not None:
            least = self.plain.at(np.minimum(tokens, sequences))
            seconds = np.where(tokens <= sequences, least, np.maximum(seconds, least))
        return self.pace * (seconds + self.rest(sequences, context_tokens))

    def seconds(self, shape: StepShape) -> float:
        """Seconds of one step; 0 for one without tokens."""
        if shape.tokens < 1:
            return 0.0
        counts = np.array([shape.tokens])
        return float(self.by_tokens(counts, shape.sequences, shape.context_tokens)[0])

    def scaled(self, factor: float) -> StepCost:
        """The same machine, slower by this factor."""
        return replace(self, pace=self.pace * factor)

    def rest(self, sequences: float, context_tokens: float) -> float:
        """The seconds that do not depend on the tokens, at a pace of 1."""
        return sequences * self.sequence_seconds + context_tokens * self.context_token_seconds


def measurement_shapes(
    slots: int, step_tokens: int, max_draft_tokens: int, context_tokens: int
) -> Iterator[tuple[int, int]]:
    """(sequences, tokens of each) of the steps to measure at the start, the most telling first.

    Loads double up to all slots; at each, drafts of none, one, some and many tokens, as far as a step and a context hold them.
    Whether drafts pay is decided between none and one, where engines have jumps.
    """
    loads = [2**power for power in range(slots.bit_length()) if 2**power <= slots]
    if loads and loads[-1] != slots:
        loads.append(slots)
    longest = min(max_draft_tokens + 1, context_tokens // 4)
    lengths = [length for length in (1, 2, 5, 3, 9, 17, 33) if length <= longest]
    first = [(load, length) for load in loads for length in lengths[:2]]
    rest = [(load, length) for length in lengths[2:] for load in loads]
    yield from (shape for shape in (*first, *rest) if shape[0] * shape[1] <= step_tokens)


KNOT_ARRAY = np.array(KNOTS, dtype=np.float64)
