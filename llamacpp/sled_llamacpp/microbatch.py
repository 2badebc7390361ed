"""How a ragged batch is split into forward passes. Pure: numbers in, a plan out.

llama.cpp computes a batch in micro-batches that are rectangles: the same number of rows for each of
some *neighbouring* slots. A plan covers the tokens of a step with such rectangles ("calls") under
the rules that keep logits independent of the batch (docs/adr/0003): few enough rows per slot, and
never a single row in all. Rows without a token of their own are filled with companions, which are
forgotten after the call; a companion costs arithmetic, a further call costs another pass over the
weights, so the plan weighs one against the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    """What a call may look like, and what it costs.

    Raises:
        ValueError: a number that would make planning impossible.
    """

    max_rows_per_slot: int = 48
    """The CPU attention kernel takes another algorithm from 64 query rows of one sequence on."""
    max_rows: int = 256
    """Rows of one call over all slots (llama.cpp's n_ubatch)."""
    min_rows: int = 2
    """A single row would be a matrix-vector product, which sums in another order. 1 where that does
    not matter.
    """
    call_cost_rows: int = 6
    """Cost of one call beyond its rows, in rows: how many companions a saved call is worth."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_rows <= self.max_rows_per_slot <= self.max_rows:
            raise ValueError(
                "1 <= min_rows <= max_rows_per_slot <= max_rows must hold, got "
                f"{self.min_rows}, {self.max_rows_per_slot}, {self.max_rows}"
            )
        if self.call_cost_rows < 0:
            raise ValueError(f"call_cost_rows is {self.call_cost_rows}; allowed: 0 or more")


@dataclass(frozen=True, slots=True)
class Call:
    """One forward pass: `rows` rows for each of the slots `first_slot`, `first_slot` + 1, …

    `fed[i]` of the rows of slot `first_slot + i` are its next tokens; the other `rows - fed[i]` are
    companions.
    """

    first_slot: int
    rows: int
    fed: tuple[int, ...]


_Group = tuple[int, int, int]
"""First column, width, rows."""


def plan_calls(tokens: Mapping[int, int], rules: Rules) -> list[Call]:
    """Cover `tokens` (slot -> number of tokens > 0) with calls; a slot's tokens are fed in order
    over the calls.

    Slots between two busy ones may be named in a call with `fed` 0.
    """
    busy = {slot: count for slot, count in tokens.items() if count > 0}
    if not busy:
        return []
    first = min(busy)
    left = [busy.get(slot, 0) for slot in range(first, max(busy) + 1)]
    calls: list[Call] = []
    while any(left):
        for start, width, rows in _cheapest_layer(
            [min(n, rules.max_rows_per_slot) for n in left], rules
        ):
            fed = tuple(min(left[i], rows) for i in range(start, start + width))
            calls.append(Call(first + start, rows, fed))
            for i, n in enumerate(fed, start):
                left[i] -= n
    return calls


def _cheapest_layer(heights: list[int], rules: Rules) -> list[_Group]:
    # Everything at once, or first all columns up to one of their heights and the taller ones' rest
    # afterwards (a long prefill chunk beside short drafts). The rest is planned by the next turn of
    # the caller's loop.
    best: tuple[int, list[_Group]] | None = None
    for level in sorted(set(heights) - {0}, reverse=True):
        cost, groups = _partition([min(h, level) for h in heights], rules)
        cost += _partition([max(h - level, 0) for h in heights], rules)[0]
        if best is None or cost < best[0]:
            best = cost, groups
    return best[1] if best else []


def _partition(heights: list[int], rules: Rules) -> tuple[int, list[_Group]]:
    # Dynamic programme over the columns: `costs[end]` is the cheapest cover of the first `end`
    # columns by groups of neighbours, each as tall as its tallest column. Idle columns outside of
    # groups are free.
    costs, choice = [0], [0]
    for end in range(1, len(heights) + 1):
        best, best_start = (costs[end - 1], end) if heights[end - 1] == 0 else (-1, end - 1)
        tallest = 0
        for start in range(end - 1, -1, -1) if heights[end - 1] else ():
            tallest = max(tallest, heights[start])
            width = end - start
            if width > 1 and tallest * width > rules.max_rows:
                break
            if heights[start] == 0:
                continue
            cost = costs[start] + rules.call_cost_rows + max(tallest * width, rules.min_rows)
            if best < 0 or cost < best:
                best, best_start = cost, start
        costs.append(best)
        choice.append(best_start)
    groups: list[_Group] = []
    end = len(heights)
    while end > 0:
        start = choice[end]
        if start == end:
            end -= 1
            continue
        width, rows = end - start, max(heights[start:end])
        groups.append((start, width, max(rows, -(-rules.min_rows // width))))
        end = start
    return costs[-1], groups[::-1]
