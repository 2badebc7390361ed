"""Slot bookkeeping: what is shared, who is evicted, and what the engine is told to do for it."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence

import pytest

from sled_verifier.slots import (
    Acquired,
    CopyPrefix,
    Occupancy,
    SlotPolicy,
    SlotTable,
    Truncate,
    common_prefix,
)

POLICY = SlotPolicy(
    min_shared_tokens=4, keep_idle_seconds=1.0, patience_seconds=0.5, slice_seconds=2.0
)


def tokens(*parts: Sequence[int]) -> array[int]:
    return array("I", [token for part in parts for token in part])


def numbered(start: int, count: int) -> array[int]:
    return array("I", range(start, start + count))


class Table(SlotTable):
    """A table whose owners are idle unless said otherwise."""

    def __init__(self, slots: int, *, neighbours: bool = False) -> None:
        self.doing: dict[int, Occupancy] = {}
        super().__init__(
            slots,
            POLICY,
            lambda owner: self.doing.get(owner, Occupancy.IDLE),
            neighbours=neighbours,
        )

    def place(self, owner: int) -> int:
        """The slot of an owner that has one."""
        slot = self.slot_of(owner)
        assert slot is not None
        return slot

    def hold(self, owner: int, content: array[int], now: float = 0.0) -> Acquired:
        """Acquire a slot and fill it."""
        acquired = self.acquire(owner, content, len(content), now, 0.0)
        assert acquired is not None
        self.set_length(owner, len(content), now, served=True)
        return acquired


@pytest.mark.parametrize(
    ("left", "right", "limit", "length"),
    [
        ([], [], 9, 0),
        ([1, 2, 3], [1, 2, 3], 9, 3),
        ([1, 2, 3], [1, 2, 3], 2, 2),
        ([1, 2, 3], [1, 2], 9, 2),
        ([1, 2, 3], [1, 9, 3], 9, 1),
        ([1], [2], 9, 0),
        ([1], [1], 0, 0),
    ],
)
def test_common_prefix(left: list[int], right: list[int], limit: int, length: int) -> None:
    assert common_prefix(array("I", left), array("I", right), limit) == length


def test_an_empty_slot_needs_no_operation() -> None:
    assert Table(2).acquire(1, numbered(0, 9), 9, 0.0, 0.0) == Acquired(0, 0, (), None)


def test_a_living_sequences_prefix_is_copied() -> None:
    table = Table(2)
    table.hold(1, numbered(0, 20))
    acquired = table.acquire(2, tokens(range(10), [99]), 11, 0.0, 0.0)
    assert acquired == Acquired(1, 10, (CopyPrefix(0, 1, 10),), None)
    assert table.length(2) == 10


def test_a_short_prefix_is_not_worth_a_copy() -> None:
    table = Table(2)
    table.hold(1, numbered(0, 20))
    assert table.shareable(tokens(range(3), [99]), 4) == 0
    assert table.acquire(2, tokens(range(3), [99]), 4, 0.0, 0.0) == Acquired(1, 0, (), None)


def test_what_a_sequence_left_behind_is_shared_and_then_taken_over() -> None:
    table = Table(1)
    table.hold(1, numbered(0, 20))
    table.release(1)
    assert (table.owned, table.shareable(numbered(0, 12), 11)) == (0, 11)
    acquired = table.acquire(2, tokens(range(10), [99, 98]), 12, 0.0, 0.0)
    assert acquired == Acquired(0, 10, (Truncate(0, 10),), None)


def test_a_continued_conversation_takes_its_old_slot_as_it_is() -> None:
    table = Table(1)
    table.hold(1, numbered(0, 20))
    table.release(1)
    assert table.acquire(2, numbered(0, 30), 30, 0.0, 0.0) == Acquired(0, 20, (), None)


def test_content_that_shares_nothing_is_emptied_first() -> None:
    table = Table(1)
    table.hold(1, numbered(0, 20))
    table.release(1)
    acquired = table.acquire(2, numbered(50, 9), 9, 0.0, 0.0)
    assert acquired == Acquired(0, 0, (Truncate(0, 0),), None)


def test_empty_slots_go_first_then_the_oldest_cache() -> None:
    table = Table(3)
    for owner, now in ((1, 2.0), (2, 1.0)):
        table.hold(owner, numbered(owner * 100, 9), now)
        table.release(owner)
    assert [table.hold(o, numbered(o * 100, 9), 3.0).slot for o in (3, 4, 5)] == [2, 1, 0]


def test_an_idle_owner_is_evicted_after_a_while_the_longest_unused_first() -> None:
    table = Table(2)
    table.hold(1, numbered(100, 9), now=0.5)
    table.hold(2, numbered(200, 9), now=0.0)
    assert table.acquire(3, numbered(300, 9), 9, 0.9, 0.0) is None
    acquired = table.acquire(3, numbered(300, 9), 9, 1.6, 0.0)
    assert acquired == Acquired(1, 0, (Truncate(1, 0),), 2)
    assert (table.slot_of(2), table.length(2), table.slot_of(3)) == (None, 0, 1)


def test_a_patient_round_takes_a_slot_at_the_end_of_its_owners_slice() -> None:
    table = Table(2)
    table.hold(1, numbered(100, 9), now=0.0)
    table.hold(2, numbered(200, 9), now=1.0)
    for owner in (1, 2):
        table.set_length(owner, 9, 5.0, served=True)
        table.doing[owner] = Occupancy.WAITING
    assert table.acquire(3, numbered(300, 9), 9, 5.0, 0.4) is None
    acquired = table.acquire(3, numbered(300, 9), 9, 5.0, 0.5)
    assert acquired is not None
    assert (acquired.slot, acquired.evicted) == (0, 1)


@pytest.mark.parametrize("reason", ["pinned", "not served", "slice not over"])
def test_nobody_loses_work_in_progress(reason: str) -> None:
    table = Table(1)
    content = numbered(100, 9)
    table.acquire(1, content, 9, 0.0, 0.0)
    table.set_length(1, 9, 5.0, served=reason != "not served")
    table.doing[1] = Occupancy.PINNED if reason == "pinned" else Occupancy.WAITING
    now = 1.9 if reason == "slice not over" else 5.0
    assert table.acquire(2, numbered(300, 9), 9, now, 100.0) is None


def test_lost_content_is_not_shared() -> None:
    table = Table(2)
    table.hold(1, numbered(0, 20))
    assert table.reset([0]) == [1]
    assert table.longest_prefix(numbered(0, 20), 20) == (-1, 0)
    assert table.slot_of(1) is None


def test_a_broken_slot_is_never_given_again() -> None:
    table = Table(2)
    table.hold(1, numbered(0, 20))
    assert table.retire(0) == [1]
    assert table.usable == 1
    assert table.hold(2, numbered(50, 5)).slot == 1
    assert table.acquire(3, numbered(70, 5), 5, 0.0, 0.0) is None


def test_released_content_ends_where_the_engines_does() -> None:
    """Tokens that were appended to the sequence but never computed must not be taken for cached."""
    table = Table(2)
    content = numbered(0, 10)
    table.hold(1, content)
    content.extend([10, 11, 12])
    table.release(1)
    assert table.longest_prefix(numbered(0, 13), 13) == (0, 10)


def test_sequences_lie_beside_each_other_and_caches_make_way() -> None:
    table = Table(6, neighbours=True)
    for owner in range(6):
        table.hold(owner, numbered(100 * owner, 9), now=owner)
    for owner in (0, 1, 3, 5):
        table.release(owner)
    # 2 and 4 are left: the hole between them comes first, and what it held goes where the oldest cache was.
    acquired = table.acquire(6, numbered(900, 9), 9, 9.0, 0.0)
    assert acquired == Acquired(3, 0, (Truncate(0, 0), CopyPrefix(3, 0, 9), Truncate(3, 0)), None)
    assert table.longest_prefix(numbered(300, 9), 9) == (0, 9)
    assert table.longest_prefix(numbered(0, 9), 9) == (-1, 0)


def test_a_prefix_that_is_wanted_is_not_what_makes_way() -> None:
    table = Table(3, neighbours=True)
    for owner in range(3):
        table.hold(owner, numbered(100 * owner, 9), now=owner)
    for owner in (0, 1):
        table.release(owner)
    acquired = table.acquire(3, numbered(0, 12), 12, 9.0, 0.0)
    assert acquired == Acquired(1, 9, (Truncate(1, 0), CopyPrefix(0, 1, 9)), None)


def test_what_makes_way_and_is_wanted_is_not_copied_back() -> None:
    table = Table(3, neighbours=True)
    for owner in range(3):
        table.hold(owner, numbered(100 * owner, 9), now=owner)
    for owner in (0, 1):
        table.release(owner)
    acquired = table.acquire(3, tokens(range(100, 105), [7]), 6, 9.0, 0.0)
    assert acquired == Acquired(1, 5, (Truncate(0, 0), CopyPrefix(1, 0, 9), Truncate(1, 5)), None)


def test_a_lone_sequence_needs_no_room_made() -> None:
    table = Table(3, neighbours=True)
    for owner, slot in ((1, 0), (2, 1), (3, 2), (4, 0)):
        assert table.hold(owner, numbered(100 * owner, 9), now=owner).slot == slot
        table.release(owner)


@pytest.mark.parametrize("seed", range(20))
def test_the_engine_holds_what_the_table_says(seed: int) -> None:
    """The operations, carried out on lists of tokens, against the table; and only the oldest cache may be lost."""
    chance = random.Random(seed)
    table = Table(8, neighbours=True)
    engine: list[list[int]] = [[] for _ in range(8)]
    living: dict[int, array[int]] = {}
    for owner in range(200):
        if len(living) == 8 or (living and chance.random() < 0.5):
            over = chance.choice(list(living))
            del living[over]
            table.release(over)
        content = array("I", [chance.randrange(2) for _ in range(chance.randrange(5, 12))])
        before = sum(bool(held) for held in engine)
        acquired = table.acquire(owner, content, len(content), float(owner), 0.0)
        assert acquired is not None
        for operation in acquired.operations:
            if isinstance(operation, Truncate):
                del engine[operation.slot][operation.length :]
            else:
                assert not engine[operation.target]
                engine[operation.target] = engine[operation.source][: operation.length]
        assert engine[acquired.slot] == list(content[: acquired.cached_tokens])
        engine[acquired.slot] = list(content)
        table.set_length(owner, len(content), float(owner), served=True)
        living[owner] = content
        assert all(engine[table.place(key)] == list(text) for key, text in living.items())
        assert sum(bool(held) for held in engine) == min(8, before + 1)


def test_few_sequences_stay_together_for_ever() -> None:
    chance = random.Random(7)
    table = Table(64, neighbours=True)
    living: list[int] = []
    spans: list[int] = []
    for owner in range(500):
        if len(living) == 4:
            table.release(living.pop(chance.randrange(4)))
        table.hold(owner, array("I", [chance.randrange(9) for _ in range(9)]), float(owner))
        living.append(owner)
        slots = [table.place(key) for key in living]
        spans.append(max(slots) - min(slots))
    assert max(spans) == 3
