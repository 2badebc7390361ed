"""Learns what steps cost from steps of any shape. No clock, no I/O.

What was measured at the start is replaced, shape by shape, by what later steps took.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from sled_speculation.step_cost import KNOTS, StepCost, StepShape, load_class
from sled_speculation.step_cost_fit import OUTLIER, Cell, fit

FIT_EVERY_SECONDS = 1.0
"""After steps that took so long in all, the curve is drawn anew."""


@dataclass(slots=True)
class StepCostEstimate:
    """Learns a `StepCost` from steps of any shape; memory is bounded by the number of distinct shapes.

    A machine that turns slower or faster does so for all shapes, but only some of them are seen each minute. So the pace
    is learnt apart, within some twenty steps, and the shape of the cost, at that pace, slowly.
    """

    _cells: dict[tuple[int, int, bool], Cell] = field(default_factory=dict)
    _most_tokens: dict[int, int] = field(default_factory=dict)
    _cost: StepCost | None = None
    _pace: float = 1.0
    _unfitted_seconds: float = 0.0

    def observe(self, shape: StepShape, seconds: float) -> None:
        """One step; steps without tokens and times that are no times are ignored."""
        if shape.tokens < 1 or not math.isfinite(seconds) or seconds <= 0:
            return
        seconds = max(seconds, _SHORTEST)
        load = load_class(shape.sequences)
        self._most_tokens[load] = max(shape.tokens, self._most_tokens.get(load, 0))
        self._unfitted_seconds += seconds
        if self._cost is not None:
            surprise = seconds / (self._pace * max(self._cost.seconds(shape), _SHORTEST))
            self._pace *= min(max(surprise, 1 / OUTLIER), OUTLIER) ** _PACE_STEP
            seconds /= self._pace
        key = (bisect.bisect_right(KNOTS, shape.tokens), load, shape.plain)
        cell = self._cells.get(key)
        if cell is None:
            self._cells[key] = Cell(shape.tokens, shape.sequences, shape.context_tokens, seconds)
        else:
            cell.add(shape, seconds)

    def load(self, samples: Iterable[tuple[StepShape, float]]) -> None:
        """Take over what a measurement at the start found."""
        for shape, seconds in samples:
            for _ in range(_MEASURED_WEIGHT):
                self.observe(shape, seconds)
        self._unfitted_seconds = math.inf

    def most_tokens(self, sequences: int) -> int:
        """Tokens of the largest step that was seen at about this load or a higher one; 0 when none was."""
        least = load_class(sequences)
        return max((most for load, most in self._most_tokens.items() if load >= least), default=0)

    def plain_steps(self, sequences: int) -> float:
        """About how many steps without drafts are known at about this load; recent ones only."""
        load = load_class(sequences)
        return sum(cell.weight for key, cell in self._cells.items() if key[1:] == (load, True))

    def cost(self) -> StepCost | None:
        """The present estimate; None before steps of two different token counts were seen."""
        # A fit takes milliseconds, so by seconds of steps it costs slow engines and quick ones alike.
        due = self._unfitted_seconds >= (FIT_EVERY_SECONDS if self._cost else 0.0)
        if due and len({key[0] for key in self._cells}) > 1:
            self._cost = fit(list(self._cells.values()))
            self._unfitted_seconds = 0.0
        return None if self._cost is None else self._cost.scaled(self._pace)


_PACE_STEP = 0.05
_MEASURED_WEIGHT = 4
"""Nothing else ran when a shape was measured at the start, and the best of a few repetitions was taken."""
_SHORTEST = 1e-7
