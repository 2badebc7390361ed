"""Who holds which of the engine's key-value slots: allocation, prefix sharing, eviction. Pure
bookkeeping; must not call the engine.

The table says what each slot's content *will be* once the returned operations have run in order;
the caller runs them in the engine thread before the next step.
"""

from __future__ import annotations

import enum
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from sled_verifier.rounds import TOKEN_ARRAY


class Occupancy(enum.Enum):
    """What a slot's owner is doing."""

    IDLE = "idle"
    """No round waits and nothing is being computed for it."""
    WAITING = "waiting"
    """A round waits, and the cache is complete: it may lose the slot when its time slice is over.
    """
    PINNED = "pinned"
    """Its prefix is being computed or its round is running: taking the slot would throw that work
    away.
    """


@dataclass(frozen=True, slots=True)
class Truncate:
    """Forget a slot's tokens from `length` on; 0 empties it."""

    slot: int
    length: int


@dataclass(frozen=True, slots=True)
class CopyPrefix:
    """Fill an empty slot with the first `length` tokens of another."""

    source: int
    target: int
    length: int


SlotOp = Truncate | CopyPrefix


@dataclass(frozen=True, slots=True)
class SlotPolicy:
    """When a slot changes hands. `min_shared_tokens`: shorter common prefixes are not worth a
    copy.
    """

    min_shared_tokens: int = 8
    keep_idle_seconds: float = 1.0
    """An owner between two rounds keeps its slot for this long even if others wait."""
    patience_seconds: float = 0.5
    """A round that waited longer for a slot may take one from an owner whose time slice is over."""
    slice_seconds: float = 1.0
    """Shortest stay in a slot when there are more active sequences than slots."""


@dataclass(slots=True)
class _Slot:
    number: int
    owner: int | None = None
    tokens: array[int] = field(default_factory=lambda: array(TOKEN_ARRAY))
    length: int = 0
    last_used: float = 0.0
    since: float = 0.0
    served: bool = False


@dataclass(frozen=True, slots=True)
class Acquired:
    """A slot given to a sequence: `cached_tokens` of its prefix are there once `operations` have
    run.
    """

    slot: int
    cached_tokens: int
    operations: tuple[SlotOp, ...]
    evicted: int | None
    """Owner that lost the slot."""


def common_prefix(left: array[int], right: array[int], limit: int) -> int:
    """Length of the longest common prefix, at most `limit`."""
    limit = min(limit, len(left), len(right))
    if limit == 0 or left[0] != right[0]:
        return 0
    a = np.array(left[:limit], dtype=np.uint32)
    b = np.array(right[:limit], dtype=np.uint32)
    different = np.flatnonzero(a != b)
    return int(different[0]) if different.size else limit


class SlotTable:
    """The slots of one engine. `occupancy(owner)` is asked when a victim is sought.

    With `neighbours` a sequence comes beside the others, for engines that compute neighbouring slots in one pass.
    """

    def __init__(
        self,
        slots: int,
        policy: SlotPolicy,
        occupancy: Callable[[int], Occupancy],
        *,
        neighbours: bool = False,
    ) -> None:
        self._slots = [_Slot(number) for number in range(slots)]
        self._by_owner: dict[int, _Slot] = {}
        self._policy = policy
        self._occupancy = occupancy
        self._neighbours = neighbours

    @property
    def usable(self) -> int:
        """Slots that the engine has not broken."""
        return len(self._slots)

    @property
    def owned(self) -> int:
        """Slots that belong to a sequence."""
        return len(self._by_owner)

    def slot_of(self, owner: int) -> int | None:
        """The owner's slot, or None when it is evicted."""
        slot = self._by_owner.get(owner)
        return None if slot is None else slot.number

    def length(self, owner: int) -> int:
        """Tokens of the owner's prefix that its slot holds; 0 without a slot."""
        slot = self._by_owner.get(owner)
        return 0 if slot is None else slot.length

    def longest_prefix(self, tokens: array[int], limit: int) -> tuple[int, int]:
        """(slot, length) of the resident content that shares most with `tokens[:limit]`; (-1, 0)
        when nothing does.
        """
        best, best_length = -1, 0
        for slot in self._slots:
            length = common_prefix(slot.tokens, tokens, min(limit, slot.length))
            if length > best_length:
                best, best_length = slot.number, length
        return best, best_length

    def shareable(self, tokens: array[int], limit: int) -> int:
        """Tokens that an `acquire` now would find resident."""
        length = self.longest_prefix(tokens, limit)[1]
        return length if length >= self._policy.min_shared_tokens else 0

    def acquire(
        self, owner: int, tokens: array[int], limit: int, now: float, waited: float
    ) -> Acquired | None:
        """Give `owner` a slot for `tokens[:limit]`, or None when all are in use.

        `waited` is how long (seconds) a round of it has been waiting, 0 when none waits. The slot
        keeps a reference to `tokens`, which may only be appended to while the slot is held.
        """
        victim = self._victim(now, waited)
        if victim is None:
            return None
        source, shared = self.longest_prefix(tokens, limit)
        operations: list[SlotOp] = []
        if self._neighbours and victim.owner is None and self._by_owner:
            victim, operations = self._beside_others(source)
        if shared < self._policy.min_shared_tokens:
            shared = 0
        evicted = victim.owner
        if evicted is not None:
            del self._by_owner[evicted]
        if shared and source == victim.number:
            if shared < victim.length:
                operations.append(Truncate(victim.number, shared))
        else:
            if victim.length:
                operations.append(Truncate(victim.number, 0))
            if shared:
                operations.append(CopyPrefix(source, victim.number, shared))
                self._at(source).last_used = now
        victim.owner, victim.tokens, victim.length = owner, tokens, shared
        victim.last_used = victim.since = now
        victim.served = False
        self._by_owner[owner] = victim
        return Acquired(victim.number, shared, tuple(operations), evicted)

    def set_length(self, owner: int, length: int, now: float, *, served: bool) -> None:
        """Record what the engine holds after a step; `served` when a round was answered."""
        slot = self._by_owner[owner]
        slot.length = length
        slot.last_used = now
        slot.served = slot.served or served

    def release(self, owner: int) -> None:
        """End of a sequence: its content stays as a cache that the next acquire may share or
        overwrite.
        """
        slot = self._by_owner.pop(owner, None)
        if slot is not None:
            slot.owner = None
            slot.tokens = slot.tokens[: slot.length]

    def reset(self, numbers: Iterable[int]) -> list[int]:
        """Slots whose content is lost: no owner, no content. Returns the owners that were
        evicted.
        """
        evicted = []
        for number in numbers:
            slot = self._at(number)
            if slot.owner is not None:
                evicted.append(slot.owner)
                del self._by_owner[slot.owner]
            slot.owner, slot.tokens, slot.length = None, array(TOKEN_ARRAY), 0
        return evicted

    def retire(self, number: int) -> list[int]:
        """Take a slot that cannot even be emptied out of use for good."""
        evicted = self.reset((number,))
        self._slots.remove(self._at(number))
        return evicted

    def _beside_others(self, source: int) -> tuple[_Slot, list[SlotOp]]:
        """The free slot nearest to the owned ones. What it held moves to the free slot that holds least of use, but for `source`,
        whose content is wanted; so where a sequence comes to lie does not decide which cache is lost.
        """
        free = self._free()
        owned = [slot.number for slot in self._by_owner.values()]
        place = max(free, key=lambda slot: sum(1 / abs(slot.number - other) for other in owned))
        spare = next((slot for slot in free if slot is place or slot.number != source), place)
        operations: list[SlotOp] = []
        if spare is place or not place.length:
            return place, operations
        if spare.length:
            operations.append(Truncate(spare.number, 0))
        operations.append(CopyPrefix(place.number, spare.number, place.length))
        spare.tokens, spare.length, spare.last_used = place.tokens, place.length, place.last_used
        return place, operations

    def _free(self) -> list[_Slot]:
        """Slots without an owner, those that hold least of use first."""
        free = (slot for slot in self._slots if slot.owner is None)
        return sorted(free, key=lambda slot: (slot.length > 0, slot.last_used))

    def _at(self, number: int) -> _Slot:
        return next(slot for slot in self._slots if slot.number == number)

    def _victim(self, now: float, waited: float) -> _Slot | None:
        """Empty, else cached, else idle for long enough, else (for a patient round) at the end of
        its time slice.
        """
        free = self._free()
        if free:
            return free[0]
        policy = self._policy
        doing = {slot.number: self._occupancy_of(slot) for slot in self._slots}
        idle = [
            slot
            for slot in self._slots
            if doing[slot.number] is Occupancy.IDLE
            and now - slot.last_used >= policy.keep_idle_seconds
        ]
        if idle:
            return min(idle, key=lambda slot: slot.last_used)
        if waited < policy.patience_seconds:
            return None
        over = [
            slot
            for slot in self._slots
            if doing[slot.number] is not Occupancy.PINNED
            and slot.served
            and now - slot.since >= policy.slice_seconds
        ]
        return min(over, key=lambda slot: slot.since, default=None)

    def _occupancy_of(self, slot: _Slot) -> Occupancy:
        return Occupancy.PINNED if slot.owner is None else self._occupancy(slot.owner)
