"""Which sequence gets which cache slot."""

from __future__ import annotations

import pytest

from sled_edge.drafter.slots import SlotTable


def hold(table: SlotTable, sequence: int, tokens: list[int]) -> int:
    slot, common = table.take(sequence, tokens)
    table.truncate(slot, common)
    table.extend(slot, tokens[common:])
    return slot


def test_a_sequence_keeps_its_slot_and_prefix() -> None:
    table = SlotTable(2)
    slot = hold(table, 7, [1, 2, 3])
    assert table.take(7, [1, 2, 9, 9]) == (slot, 2)
    assert table.take(7, [1, 2]) == (slot, 2)
    assert table.take(7, [5]) == (slot, 0)
    assert table.slot_of(7) == slot


def test_sequences_get_different_slots_while_there_are_any() -> None:
    table = SlotTable(3)
    assert {hold(table, n, [n]) for n in range(3)} == {0, 1, 2}


def test_the_slot_used_least_recently_is_taken() -> None:
    table = SlotTable(2)
    first, second = hold(table, 1, [1]), hold(table, 2, [2])
    hold(table, 1, [1, 1])
    assert table.take(3, [8]) == (second, 0)
    assert first != second
    with pytest.raises(KeyError):
        table.slot_of(2)


def test_a_released_slot_is_found_by_its_tokens() -> None:
    table = SlotTable(3)
    hold(table, 1, [1, 2, 3, 4])
    slot = hold(table, 2, [5, 6, 7, 8])
    table.release(1)
    table.release(2)
    assert table.take(3, [5, 6, 7, 9]) == (slot, 3)


def test_a_slot_in_use_is_never_shared() -> None:
    table = SlotTable(2)
    slot = hold(table, 1, [1, 2, 3])
    assert table.take(2, [1, 2, 3])[0] != slot


def test_an_emptied_slot_holds_nothing() -> None:
    table = SlotTable(1)
    slot = hold(table, 1, [1, 2])
    table.reset((slot,))
    assert table.take(1, [1, 2]) == (slot, 0)


def test_releasing_the_unknown_is_ignored() -> None:
    SlotTable(1).release(99)


def test_no_slots_are_refused() -> None:
    with pytest.raises(ValueError, match=r"count is 0"):
        SlotTable(0)
