"""Adds up what verifiers count per draft model and device class, across restarts of theirs.
Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sled_operator.assignment.predict import Measured
from sled_operator.rollout import Quality

Counts = tuple[int, int, int, int]
"""Rounds, draft tokens, accepted tokens, draft microseconds."""
Pair = tuple[str, str]
"""Draft model and device class."""
_ZERO: Counts = (0, 0, 0, 0)


@dataclass(slots=True)
class Ledger:
    """Totals since the operator started. A counter that falls has started anew with its
    verifier."""

    totals: dict[Pair, Counts] = field(default_factory=dict)
    _last: dict[tuple[str, Pair], Counts] = field(default_factory=dict)

    def take(self, replica: str, counters: Mapping[Pair, Counts]) -> None:
        """Add what a verifier's counters have gained."""
        for pair, now in counters.items():
            before = self._last.get((replica, pair), _ZERO)
            base = before if all(a >= b for a, b in zip(now, before, strict=True)) else _ZERO
            gained = minus(now, base)
            self._last[replica, pair] = now
            self.totals[pair] = plus(self.totals.get(pair, _ZERO), gained)

    def forget(self, replicas: Iterable[str]) -> None:
        """Drop the memory of verifiers that are gone."""
        gone = set(replicas)
        for key in [key for key in self._last if key[0] in gone]:
            del self._last[key]

    def measured(self) -> dict[Pair, Measured]:
        """The totals, for prediction."""
        return {pair: Measured(*counts) for pair, counts in self.totals.items()}


def plus(a: Counts, b: Counts) -> Counts:
    """Element by element."""
    return (a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3])


def minus(a: Counts, b: Counts) -> Counts:
    """Element by element."""
    return (a[0] - b[0], a[1] - b[1], a[2] - b[2], a[3] - b[3])


def quality(
    since: Mapping[Pair, Counts], now: Mapping[Pair, Counts], models: set[str], before: set[str]
) -> Quality:
    """What draft `models` did since the totals `since`, and how fast compared with the models of
    the revision before over all time until then."""
    gained = _ZERO
    for pair, counts in now.items():
        if pair[0] in models:
            gained = plus(gained, minus(counts, since.get(pair, _ZERO)))
    earlier = _ZERO
    for pair, counts in since.items():
        if pair[0] in before:
            earlier = plus(earlier, counts)
    if not gained[1]:
        return Quality()
    acceptance = gained[2] * 1000 // gained[1]
    speed = None
    if gained[3] and earlier[1] and earlier[3]:
        speed = int(1000 * (gained[1] / gained[3]) / (earlier[1] / earlier[3]))
    return Quality(acceptance, speed)
