"""What one step of the target model costs, learnt from steps: seconds over (tokens, sequences, context). No clock, no I/O.

A step streams the weights once, computes something for every token, and reads the keys and values of every sequence. How
these overlap differs by runtime and machine, and the curve over tokens has flat stretches and jumps, so its shape is
measured and not assumed: a piecewise linear, never falling function of the tokens, plus a price per sequence and per token
of context. What was measured at the start is replaced, shape by shape, by what later steps took.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

KNOTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096)
"""Tokens of a step between which its cost is taken to be straight."""
FIT_EVERY_SECONDS = 1.0
"""After steps that took so long in all, the curve is drawn anew."""
_CONTEXT_UNIT = 1024.0
"""Context tokens are counted in thousands, so that all unknowns of the fit are of one size."""
_SMOOTHNESS = 0.02
_SMALL = 1e-3


@dataclass(frozen=True, slots=True)
class StepShape:
    """What a step was made of.

    `tokens` were computed over all sequences, `sequences` had a part in it, and `context_tokens` had keys and values
    already, summed over those sequences.
    """

    tokens: int
    sequences: int
    context_tokens: int


@dataclass(frozen=True, slots=True)
class StepCost:
    """Seconds of a step; made by `StepCostEstimate`, or by hand for a simulator.

    `knot_seconds` [len(KNOTS)] never falls. Above the last knot the last slope goes on.
    """

    knot_seconds: NDArray[np.float64]
    sequence_seconds: float = 0.0
    context_token_seconds: float = 0.0

    def by_tokens(
        self, tokens: NDArray[np.int64], sequences: int, context_tokens: int
    ) -> NDArray[np.float64]:
        """Seconds [n] for each of the token counts [n], all at least 1."""
        knots, values = _KNOT_ARRAY, self.knot_seconds
        seconds = np.interp(tokens, knots, values)
        slope = (values[-1] - values[-2]) / (knots[-1] - knots[-2])
        seconds += np.maximum(tokens - knots[-1], 0) * slope
        return np.asarray(seconds + self._rest(sequences, context_tokens), dtype=np.float64)

    def seconds(self, shape: StepShape) -> float:
        """Seconds of one step; 0 for one without tokens."""
        if shape.tokens < 1:
            return 0.0
        counts = np.array([shape.tokens])
        return float(self.by_tokens(counts, shape.sequences, shape.context_tokens)[0])

    def scaled(self, factor: float) -> StepCost:
        """The same machine, slower by this factor."""
        return StepCost(
            self.knot_seconds * factor,
            self.sequence_seconds * factor,
            self.context_token_seconds * factor,
        )

    def _rest(self, sequences: int, context_tokens: int) -> float:
        return sequences * self.sequence_seconds + context_tokens * self.context_token_seconds


@dataclass(slots=True)
class _Cell:
    """Recent steps of about one shape, as decaying means."""

    tokens: float
    sequences: float
    context_tokens: float
    seconds: float
    weight: float = 1.0

    def add(self, shape: StepShape, seconds: float) -> None:
        bounded = min(seconds, _OUTLIER * self.seconds)
        step = max(1 / (self.weight + 1), _CELL_STEP)
        self.tokens += step * (shape.tokens - self.tokens)
        self.sequences += step * (shape.sequences - self.sequences)
        self.context_tokens += step * (shape.context_tokens - self.context_tokens)
        self.seconds += step * (bounded - self.seconds)
        self.weight = min(self.weight + 1, 1 / _CELL_STEP)


@dataclass(slots=True)
class StepCostEstimate:
    """Learns a `StepCost` from steps of any shape; memory is bounded by the number of distinct shapes.

    A machine that turns slower or faster does so for all shapes, but only some of them are seen each minute. So the pace
    is learnt apart, within some twenty steps, and the shape of the cost, at that pace, slowly.
    """

    _cells: dict[tuple[int, int], _Cell] = field(default_factory=dict)
    _cost: StepCost | None = None
    _pace: float = 1.0
    _unfitted_seconds: float = 0.0

    def observe(self, shape: StepShape, seconds: float) -> None:
        """One step; steps without tokens and times that are no times are ignored."""
        if shape.tokens < 1 or not math.isfinite(seconds) or seconds <= 0:
            return
        seconds = max(seconds, _SHORTEST)
        self._unfitted_seconds += seconds
        if self._cost is not None:
            surprise = seconds / (self._pace * max(self._cost.seconds(shape), _SHORTEST))
            self._pace *= min(max(surprise, 1 / _OUTLIER), _OUTLIER) ** _PACE_STEP
            seconds /= self._pace
        key = (bisect.bisect_right(KNOTS, shape.tokens), max(shape.sequences, 1).bit_length())
        cell = self._cells.get(key)
        if cell is None:
            self._cells[key] = _Cell(shape.tokens, shape.sequences, shape.context_tokens, seconds)
        else:
            cell.add(shape, seconds)

    def load(self, samples: Iterable[tuple[StepShape, float]]) -> None:
        """Take over what a measurement at the start found."""
        for shape, seconds in samples:
            self.observe(shape, seconds)
        self._unfitted_seconds = math.inf

    def cost(self) -> StepCost | None:
        """The present estimate; None before steps of two different token counts were seen."""
        # A fit takes milliseconds, so by seconds of steps it costs slow engines and quick ones alike.
        due = self._unfitted_seconds >= (FIT_EVERY_SECONDS if self._cost else 0.0)
        if due and len({key[0] for key in self._cells}) > 1:
            self._cost = fit(list(self._cells.values()))
            self._unfitted_seconds = 0.0
        return None if self._cost is None else self._cost.scaled(self._pace)


def fit(cells: Sequence[_Cell]) -> StepCost:
    """The non-negative least squares fit of relative errors over the cells.

    The unknowns are the first value of the curve and its rises from knot to knot, so that it never falls; a weak wish for
    equal slopes carries it across knots that no step has come near.
    """
    rows, weights = [], []
    for cell in cells:
        rows.append(_basis(cell) / cell.seconds)
        weights.append(math.sqrt(cell.weight))
    matrix = np.array(rows) * np.array(weights)[:, None]
    target = np.array(weights)
    smooth = _smoothness(float(np.mean([c.seconds / c.tokens for c in cells])))
    found = _non_negative(
        np.vstack([matrix, smooth]), np.concatenate([target, np.zeros(len(smooth))])
    )
    curve = _carried_on(np.cumsum(found[: len(KNOTS)]), max(cell.tokens for cell in cells))
    return StepCost(curve, float(found[-2]), float(found[-1]) / _CONTEXT_UNIT)


def _carried_on(curve: NDArray[np.float64], most_tokens: float) -> NDArray[np.float64]:
    """The curve with no lower slope beyond what was seen than it had on average over the last three quarters of it: the last
    stretch alone may be flat by chance, and long drafts would look free.
    """
    seen, before = np.interp([most_tokens, most_tokens / 4], _KNOT_ARRAY, curve)
    slope = (seen - before) / (0.75 * most_tokens)
    least = seen + slope * (_KNOT_ARRAY - most_tokens)
    return np.where(most_tokens < _KNOT_ARRAY, np.maximum(curve, least), curve)


def _basis(cell: _Cell) -> NDArray[np.float64]:
    rises = np.clip((cell.tokens - _KNOT_ARRAY[:-1]) / np.diff(_KNOT_ARRAY), 0, 1)
    if cell.tokens > KNOTS[-1]:
        rises[-1] = (cell.tokens - KNOTS[-2]) / (KNOTS[-1] - KNOTS[-2])
    return np.concatenate([[1.0], rises, [cell.sequences, cell.context_tokens / _CONTEXT_UNIT]])


def _smoothness(seconds_per_token: float) -> NDArray[np.float64]:
    """Rows that ask for equal slopes left and right of each knot, and for small other prices."""
    unknowns = len(KNOTS) + 2
    widths = np.diff(_KNOT_ARRAY)
    rows = []
    for knot in range(1, len(KNOTS) - 1):
        row = np.zeros(unknowns)
        row[knot] = -_SMOOTHNESS / widths[knot - 1]
        row[knot + 1] = _SMOOTHNESS / widths[knot]
        rows.append(row / seconds_per_token)
    for price in (unknowns - 2, unknowns - 1):
        row = np.zeros(unknowns)
        row[price] = _SMALL / seconds_per_token
        rows.append(row)
    return np.array(rows)


def _non_negative(matrix: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """argmin |matrix x - target| over x >= 0: the active set method of Lawson and Hanson 1974, chapter 23."""
    scale = np.linalg.norm(matrix, axis=0)
    scale[scale == 0] = 1.0
    gram = (matrix / scale).T @ (matrix / scale)
    right = (matrix / scale).T @ target
    solution = np.zeros(len(right))
    free = np.zeros(len(right), dtype=bool)
    for _ in range(3 * len(right)):
        slack = right - gram @ solution
        slack[free] = -1.0
        entering = int(slack.argmax())
        if slack[entering] <= _TOLERANCE:
            break
        free[entering] = True
        solution = _solve_free(gram, right, solution, free)
    return np.asarray(solution / scale, dtype=np.float64)


def _solve_free(
    gram: NDArray[np.float64],
    right: NDArray[np.float64],
    start: NDArray[np.float64],
    free: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Least squares over the free unknowns; those that would turn negative are fixed at 0 (`free` changes)."""
    current = start
    while free.any():
        wanted = np.zeros(len(right))
        part = gram[np.ix_(free, free)] + np.eye(int(free.sum())) * _TOLERANCE
        wanted[free] = np.linalg.solve(part, right[free])
        below = free & (wanted <= 0)
        if not below.any():
            return wanted
        room = current[below] / (current[below] - wanted[below] + _TINY)
        current = current + min(1.0, float(room.min())) * (wanted - current)
        free &= ~(below & (current <= _TOLERANCE))
        if (below & free).all():
            free &= ~below
        current[~free] = 0.0
    return current


def measurement_shapes(
    slots: int, step_tokens: int, max_draft_tokens: int, context_tokens: int
) -> Iterator[tuple[int, int]]:
    """(sequences, tokens of each) of the steps to measure at the start, the most telling first.

    Loads double up to all slots; at each, drafts of none, some and most tokens, as far as a step and a context hold them.
    """
    loads = [2**power for power in range(slots.bit_length()) if 2**power <= slots]
    if loads and loads[-1] != slots:
        loads.append(slots)
    longest = min(max_draft_tokens + 1, context_tokens // 4)
    lengths = [length for length in (1, 2, 3, 5, 9, 17, 33) if length <= longest]
    first = [(load, length) for load in loads for length in lengths if length in (1, 5)]
    rest = [(load, length) for load in loads for length in lengths if length not in (1, 5)]
    yield from (shape for shape in (*first, *rest) if shape[0] * shape[1] <= step_tokens)


_KNOT_ARRAY = np.array(KNOTS, dtype=np.float64)
_CELL_STEP = 0.05
_PACE_STEP = 0.05
_OUTLIER = 3.0
_SHORTEST = 1e-7
_TOLERANCE = 1e-10
_TINY = 1e-300
