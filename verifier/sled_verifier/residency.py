"""Which sequences have keys and values in the engine, and which are to get them next. Must not know
rounds or verdicts.

A sequence without a slot is soft state. It gets a slot when it opens (if one is free) or when a
round of it waits; where another sequence is computing the same prefix just now, it waits for that
instead of computing it a second time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sled_verifier.batcher import Held, Work, urgency
from sled_verifier.session import Session
from sled_verifier.slots import Occupancy, SlotOp, SlotPolicy, SlotTable, common_prefix

_log = logging.getLogger(__name__)

MIN_FOLLOW_TOKENS = 32
"""Waiting for another sequence's prefix must save at least this much computing."""


@dataclass(slots=True)
class ResidencyCounters:
    """Totals since start."""

    evictions: int = 0
    prefix_cached_tokens: int = 0


class Residency:
    """The slots of one engine and the sequences that compute their prefix in them."""

    def __init__(
        self,
        slots: int,
        policy: SlotPolicy,
        occupancy: Callable[[int], Occupancy],
        *,
        neighbours: bool = False,
    ) -> None:
        self.counters = ResidencyCounters()
        self.table = SlotTable(slots, policy, occupancy, neighbours=neighbours)
        self._computing: dict[int, None] = {}
        self._following: dict[int, tuple[int, int]] = {}

    def expect(self, session: Session) -> int:
        """Compute this sequence's prefix as soon as there is a slot; returns how much of it is
        resident already.
        """
        if session.cacheable_length:
            self._computing[session.key] = None
        return self.table.shareable(session.tokens, session.cacheable_length)

    def computing(self, key: int) -> bool:
        """True while the sequence's prefix is to be computed even if no round of it waits."""
        return key in self._computing

    def computed(self) -> Iterator[int]:
        """The sequences for which `computing` is true."""
        return iter(list(self._computing))

    def backlog(self, session: Session) -> int:
        """Tokens of the prefix without keys and values."""
        return session.cacheable_length - self.table.length(session.key)

    def settle(
        self, homeless: Sequence[Work], sessions: Mapping[int, Session], now: float
    ) -> list[SlotOp]:
        """Give slots to the most urgent of these sequences; returns what the engine must do for it,
        in order.
        """
        operations: list[SlotOp] = []
        hopeless_wait = -1.0
        for work in sorted(homeless, key=urgency):
            waited = now - work.arrived if work.round_tokens else 0.0
            if waited <= hopeless_wait:
                log_held(work.key, Held.NO_SLOT)
                continue
            session = sessions[work.key]
            if self._follows(session, sessions):
                log_held(work.key, Held.WAITS_FOR_PREFIX)
                continue
            acquired = self.table.acquire(
                work.key, session.tokens, session.cacheable_length, now, waited
            )
            if acquired is None:
                # Whoever waited no longer than this one gets no for an answer too.
                hopeless_wait = max(hopeless_wait, waited)
                log_held(work.key, Held.NO_SLOT)
                continue
            operations += acquired.operations
            self.counters.prefix_cached_tokens += acquired.cached_tokens
            self.counters.evictions += acquired.evicted is not None
            self._note_backlog(session)
        return operations

    def advance(self, session: Session, length: int, now: float, *, served: bool) -> None:
        """The slot holds `length` tokens after a step; `served` when a round was answered."""
        self.table.set_length(session.key, length, now, served=served)
        self._note_backlog(session)

    def followers(self, key: int) -> list[int]:
        """Sequences that wait for this one's prefix."""
        return [follower for follower, (leader, _) in self._following.items() if leader == key]

    def stop_computing(self, key: int) -> None:
        """Compute no more of this sequence until a round of it waits."""
        self._computing.pop(key, None)
        self._following.pop(key, None)

    def release(self, key: int) -> None:
        """End of a sequence; what it computed stays as a cache."""
        self.stop_computing(key)
        self.table.release(key)

    def reset(self, emptied: frozenset[int], broken: frozenset[int]) -> None:
        """Slots whose content was lost; broken ones are not used again."""
        evicted = self.table.reset(emptied - broken)
        for slot in broken:
            evicted += self.table.retire(slot)
        for key in evicted:
            self.stop_computing(key)

    def _note_backlog(self, session: Session) -> None:
        if self.backlog(session):
            self._computing[session.key] = None
        else:
            self._computing.pop(session.key, None)

    def _follows(self, session: Session, sessions: Mapping[int, Session]) -> bool:
        following = self._following.get(session.key)
        if following is None:
            following = self._leader(session, sessions)
        if following is not None:
            leader, common = following
            if leader in self._computing and 0 <= self._reach(leader) < common:
                self._following[session.key] = following
                return True
        self._following.pop(session.key, None)
        return False

    def _leader(self, session: Session, sessions: Mapping[int, Session]) -> tuple[int, int] | None:
        """(sequence, common tokens) of the resident sequence whose prefix is most worth waiting
        for.
        """
        limit = session.cacheable_length
        if limit < MIN_FOLLOW_TOKENS:
            return None
        resident = self.table.shareable(session.tokens, limit)
        best: tuple[int, int] | None = None
        for key in self._computing:
            reach = self._reach(key)
            if reach < 0:
                continue
            other = sessions[key]
            common = common_prefix(other.tokens, session.tokens, min(limit, other.cacheable_length))
            if common - max(resident, reach) >= MIN_FOLLOW_TOKENS and (
                best is None or common > best[1]
            ):
                best = key, common
        return best

    def _reach(self, key: int) -> int:
        return -1 if self.table.slot_of(key) is None else self.table.length(key)


def log_held(key: int, why: Held) -> None:
    """Say at debug level why a sequence is not in this step."""
    _log.debug("held back", extra={"sequence_key": key, "why": why.value})
