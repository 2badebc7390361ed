"""Adds up what verifiers count per draft model, device class and revision, across restarts of theirs.
Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from sled_operator.assignment.predict import Measured
from sled_operator.rollout import Quality

Counts = tuple[int, int, int, int]
"""Rounds, draft tokens, accepted tokens, draft microseconds."""
_ZERO: Counts = (0, 0, 0, 0)


class Counted(NamedTuple):
    """What is counted apart."""

    draft_model: str
    device_class: str
    revision: str = ""


Totals = Mapping[Counted, Counts]


@dataclass(slots=True)
class Ledger:
    """Totals since the operator started. A counter that falls has started anew with its
    verifier."""

    totals: dict[Counted, Counts] = field(default_factory=dict)
    _last: dict[tuple[str, Counted], Counts] = field(default_factory=dict)

    def take(self, replica: str, counters: Totals) -> None:
        """Add what a verifier's counters have gained."""
        for counted, now in counters.items():
            before = self._last.get((replica, counted), _ZERO)
            base = before if all(a >= b for a, b in zip(now, before, strict=True)) else _ZERO
            gained = minus(now, base)
            self._last[replica, counted] = now
            self.totals[counted] = plus(self.totals.get(counted, _ZERO), gained)

    def forget(self, replicas: Iterable[str]) -> None:
        """Drop the memory of verifiers that are gone."""
        gone = set(replicas)
        for key in [key for key in self._last if key[0] in gone]:
            del self._last[key]

    def measured(self) -> dict[tuple[str, str], Measured]:
        """The totals of each draft model on each device class, for prediction."""
        sums: dict[tuple[str, str], Counts] = {}
        for counted, counts in self.totals.items():
            pair = counted.draft_model, counted.device_class
            sums[pair] = plus(sums.get(pair, _ZERO), counts)
        return {pair: Measured(*counts) for pair, counts in sums.items()}


def plus(a: Counts, b: Counts) -> Counts:
    """Element by element."""
    return (a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3])


def minus(a: Counts, b: Counts) -> Counts:
    """Element by element."""
    return (a[0] - b[0], a[1] - b[1], a[2] - b[2], a[3] - b[3])


def quality(since: Totals, now: Totals, target: str, stable: str) -> Quality:
    """What devices of revision `target` did since the totals `since`, and how fast they draft
    compared with devices of revision `stable`.

    Speeds are compared class by class, so that a first wave of slow devices is not held against the
    new revision; classes that the stable revision never ran on are left out.
    """
    gained = {
        counted: minus(counts, since.get(counted, _ZERO))
        for counted, counts in now.items()
        if counted.revision == target
    }
    drafted = sum(counts[1] for counts in gained.values())
    if not drafted:
        return Quality()
    accepted = sum(counts[2] for counts in gained.values())
    return Quality(accepted * 1000 // drafted, _relative_speed(gained, now, stable))


def _relative_speed(gained: Totals, now: Totals, stable: str) -> int | None:
    """Permille: the time that the stable revision would have taken for the same tokens, over the
    time that they took."""
    old: dict[str, Counts] = {}
    for counted, counts in now.items():
        if counted.revision == stable:
            old[counted.device_class] = plus(old.get(counted.device_class, _ZERO), counts)
    expected, taken = 0.0, 0
    for counted, (_, tokens, _, micros) in gained.items():
        before = old.get(counted.device_class, _ZERO)
        if tokens and micros and before[1] and before[3]:
            expected += tokens * before[3] / before[1]
            taken += micros
    return int(1000 * expected / taken) if taken else None
