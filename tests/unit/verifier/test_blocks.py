"""Block tables against the plainest possible model: a list of tokens for each slot, and what every cell holds."""

from __future__ import annotations

import random

import pytest

from sled_verifier.engine.blocks import BlockCopy, BlockTables

SLOTS = 5
CONTEXT = 37
BLOCK = 4


class Pool:
    """Cells that are written and copied as the tables say; reads give what a slot would see."""

    def __init__(self) -> None:
        self.tables = BlockTables(SLOTS, CONTEXT, BLOCK)
        self.cells: list[int | None] = [None] * self.tables.count * BLOCK
        self.held: list[list[int]] = [[] for _ in range(SLOTS)]

    def extend(self, slot: int, tokens: list[int]) -> None:
        start = self.tables.length(slot)
        for copy in self.tables.extend(slot, len(tokens)):
            source, target = copy.source * BLOCK, copy.target * BLOCK
            self.cells[target : target + BLOCK] = self.cells[source : source + BLOCK]
        for cell, token in zip(self.tables.cells(slot, start), tokens, strict=True):
            self.cells[cell] = token
        self.held[slot] += tokens

    def read(self, slot: int) -> list[int | None]:
        blocks = self.tables.table(slot)
        seen = [cell for b in blocks for cell in self.cells[b * BLOCK : (b + 1) * BLOCK]]
        return seen[: self.tables.length(slot)]


@pytest.mark.parametrize("seed", range(20))
def test_every_slot_reads_what_was_written_to_it(seed: int) -> None:
    rng = random.Random(seed)
    pool = Pool()
    for step in range(400):
        slot, other = rng.sample(range(SLOTS), 2)
        room = CONTEXT - len(pool.held[slot])
        match rng.randrange(4):
            case 0 | 1:
                pool.extend(slot, [step * 100 + n for n in range(rng.randint(0, min(9, room)))])
            case 2:
                length = rng.randint(0, len(pool.held[slot]))
                pool.tables.truncate(slot, length)
                del pool.held[slot][length:]
            case _ if pool.held[slot]:
                length = rng.randint(1, len(pool.held[slot]))
                pool.tables.truncate(other, 0)
                pool.tables.share(slot, other, length)
                pool.held[other] = pool.held[slot][:length]
            case _:
                pass
        assert [pool.read(n) for n in range(SLOTS)] == pool.held
    for slot in range(SLOTS):
        pool.tables.truncate(slot, 0)
    assert pool.tables.used == 0


def test_a_full_pool_has_room_for_every_slots_whole_context() -> None:
    tables = BlockTables(SLOTS, CONTEXT, BLOCK)
    tables.extend(0, CONTEXT)
    for slot in range(1, SLOTS):
        tables.share(0, slot, CONTEXT - 1)
        tables.extend(slot, 1)
        tables.truncate(slot, 0)
        tables.extend(slot, CONTEXT)
    assert tables.used == tables.count


def test_sharing_takes_no_blocks_and_writing_takes_one() -> None:
    tables = BlockTables(2, 16, BLOCK)
    tables.extend(0, 10)
    tables.share(0, 1, 10)
    assert tables.used == 3
    assert tables.extend(1, 1) == [BlockCopy(tables.table(0)[2], tables.table(1)[2])]
    assert tables.used == 4
    assert tables.extend(0, 1) == []


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda t: t.truncate(0, 6), "holds 5 tokens, not at least 6"),
        (lambda t: t.truncate(0, -1), "not at least -1"),
        (lambda t: t.share(0, 1, 6), "does not hold 6 tokens"),
        (lambda t: t.share(1, 0, 1), "is not empty"),
    ],
)
def test_mistakes_are_named_and_change_nothing(call: object, sentence: str) -> None:
    tables = BlockTables(2, 16, BLOCK)
    tables.extend(0, 5)
    assert callable(call)
    with pytest.raises(ValueError, match=sentence):
        call(tables)
    assert tables.length(0) == 5


def test_too_much_is_refused_and_changes_nothing() -> None:
    tables = BlockTables(1, 16, BLOCK)
    tables.extend(0, 15)
    with pytest.raises(LookupError):
        tables.extend(0, 6)
    assert (tables.length(0), tables.used) == (15, 4)
