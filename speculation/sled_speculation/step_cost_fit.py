"""Fits a step's cost to what steps of many shapes took. Pure maths."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sled_speculation.step_cost import KNOT_ARRAY, KNOTS, Curve, StepCost, StepShape, load_class

_CONTEXT_UNIT = 1024.0
"""Context tokens are counted in thousands, so that all unknowns of the fit are of one size."""
OUTLIER = 3.0
"""A step that is off by more than this factor counts as if by this."""
_SMOOTHNESS = 0.02
_SMALL = 1e-3


@dataclass(slots=True)
class Cell:
    """Recent steps of about one shape, as decaying means."""

    tokens: float
    sequences: float
    context_tokens: float
    seconds: float
    weight: float = 1.0

    @property
    def plain(self) -> bool:
        """One token for each sequence."""
        return self.tokens <= self.sequences

    def add(self, shape: StepShape, seconds: float) -> None:
        """One more step; an outlier counts as a few times the mean."""
        bounded = min(seconds, OUTLIER * self.seconds)
        step = max(1 / (self.weight + 1), _CELL_STEP)
        self.tokens += step * (shape.tokens - self.tokens)
        self.sequences += step * (shape.sequences - self.sequences)
        self.context_tokens += step * (shape.context_tokens - self.context_tokens)
        self.seconds += step * (bounded - self.seconds)
        self.weight = min(self.weight + 1, 1 / _CELL_STEP)


def fit(cells: Sequence[Cell]) -> StepCost:
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
    cost = StepCost(curve, float(found[-2]), float(found[-1]) / _CONTEXT_UNIT)
    plain = [cell for cell in cells if cell.plain]
    return replace(
        cost,
        curves=dict(_curves([cell for cell in cells if not cell.plain], cost)),
        plain=_corrected(plain, cost, _PLAIN_DOUBT) if plain else None,
    )


def _curves(cells: Sequence[Cell], cost: StepCost) -> Iterator[tuple[int, Curve]]:
    """For each class of loads the curve as its own steps correct it.

    One curve for all loads is off by a tenth here and there, and whether drafts pay hangs on the difference between two
    places of it.
    """
    for load in sorted({load_class(round(cell.sequences)) for cell in cells}):
        mine = [cell for cell in cells if load_class(round(cell.sequences)) == load]
        yield load, _corrected(mine, cost, _DOUBT)


def _corrected(cells: Sequence[Cell], cost: StepCost, doubt: float) -> Curve:
    """The curve through these cells, the nearer the more steps they stand for; between and beyond them the correction goes on."""
    cells = _merged(sorted(cells, key=lambda cell: cell.tokens))
    whole = Curve(KNOT_ARRAY, cost.knot_seconds)
    seen = np.array([cell.tokens for cell in cells])
    trust = np.array([cell.weight / (cell.weight + doubt) for cell in cells])
    rest = [cost.rest(cell.sequences, cell.context_tokens) for cell in cells]
    own = np.array([cell.seconds for cell in cells]) - rest
    told = np.maximum(whole.at(seen), _TINY)
    factors = np.clip(1 + trust * (own - told) / told, 1 / OUTLIER, OUTLIER)
    tokens = np.union1d(KNOT_ARRAY, seen)
    seconds = whole.at(tokens) * np.interp(tokens, seen, factors)
    return Curve(tokens, np.maximum.accumulate(seconds))


def _merged(cells: Sequence[Cell]) -> list[Cell]:
    """Neighbours of nearly the same size as one, by their weights: a single slow step must not lift all that are larger."""
    merged: list[Cell] = []
    for cell in cells:
        if not merged or cell.tokens > _ALIKE * merged[-1].tokens:
            merged.append(cell)
            continue
        last = merged[-1]
        weight = last.weight + cell.weight
        share = cell.weight / weight
        merged[-1] = Cell(
            last.tokens + share * (cell.tokens - last.tokens),
            last.sequences + share * (cell.sequences - last.sequences),
            last.context_tokens + share * (cell.context_tokens - last.context_tokens),
            last.seconds + share * (cell.seconds - last.seconds),
            weight,
        )
    return merged


def _carried_on(curve: NDArray[np.float64], most_tokens: float) -> NDArray[np.float64]:
    """The curve with no lower slope beyond what was seen than it had on average over the last three quarters of it: the last
    stretch alone may be flat by chance, and long drafts would look free.
    """
    seen, before = np.interp([most_tokens, most_tokens / 4], KNOT_ARRAY, curve)
    slope = (seen - before) / (0.75 * most_tokens)
    least = seen + slope * (KNOT_ARRAY - most_tokens)
    return np.where(most_tokens < KNOT_ARRAY, np.maximum(curve, least), curve)


def _basis(cell: Cell) -> NDArray[np.float64]:
    rises = np.clip((cell.tokens - KNOT_ARRAY[:-1]) / np.diff(KNOT_ARRAY), 0, 1)
    if cell.tokens > KNOTS[-1]:
        rises[-1] = (cell.tokens - KNOTS[-2]) / (KNOTS[-1] - KNOTS[-2])
    return np.concatenate([[1.0], rises, [cell.sequences, cell.context_tokens / _CONTEXT_UNIT]])


def _smoothness(seconds_per_token: float) -> NDArray[np.float64]:
    """Rows that ask for equal slopes left and right of each knot, and for small other prices."""
    unknowns = len(KNOTS) + 2
    widths = np.diff(KNOT_ARRAY)
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


_DOUBT = 2.0
_ALIKE = 1.1
_PLAIN_DOUBT = 0.25
"""How many steps it takes to believe half of what they say against the common curve, which knows hardly anything of steps without
drafts: on llama.cpp it was off by a factor of two there, and what was left of that made drafts look cheap.
"""
_CELL_STEP = 0.05
_TOLERANCE = 1e-10
_TINY = 1e-300
