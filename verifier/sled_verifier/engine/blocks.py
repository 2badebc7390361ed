"""Which blocks of a key-value pool hold which sequence: tables, reference counts, copies when a shared block is
written. Pure bookkeeping; must not know what a block holds.

Block tables as in PagedAttention (Kwon et al. 2023, section 4); here a pool has a block for every place of
every slot, so that it can never run out in the middle of a step.
"""

from __future__ import annotations

from dataclasses import dataclass

BLOCK_TOKENS = 16


@dataclass(frozen=True, slots=True)
class BlockCopy:
    """Block `source` is to be copied to block `target` before anything is written."""

    source: int
    target: int


class BlockTables:
    """The block tables of `slots` sequences of at most `context_tokens` tokens each.

    Args:
        slots: sequences.
        context_tokens: tokens that one of them may hold.
        block_tokens: tokens of one block.
    """

    def __init__(self, slots: int, context_tokens: int, block_tokens: int = BLOCK_TOKENS) -> None:
        self.block_tokens = block_tokens
        self.count = slots * -(-context_tokens // block_tokens)
        """Blocks of the pool."""
        self._free = list(range(self.count))[::-1]
        self._references = [0] * self.count
        self._tables: list[list[int]] = [[] for _ in range(slots)]
        self._lengths = [0] * slots

    def length(self, slot: int) -> int:
        """Tokens that the slot holds."""
        return self._lengths[slot]

    def table(self, slot: int) -> tuple[int, ...]:
        """The slot's blocks in order; the last one may be partly filled."""
        return tuple(self._tables[slot])

    def cells(self, slot: int, start: int) -> list[int]:
        """Where in the pool (block x block_tokens + offset) the slot's tokens from `start` on lie."""
        table, size = self._tables[slot], self.block_tokens
        places = range(start, self._lengths[slot])
        return [table[place // size] * size + place % size for place in places]

    def extend(self, slot: int, tokens: int) -> list[BlockCopy]:
        """Make room for `tokens` more; the slot then owns every block that they will be written to.

        Returns what has to be copied first: at most the block that was partly filled and shared.

        Raises:
            LookupError: more than the pool was made for; nothing has changed.
        """
        table, start = self._tables[slot], self._lengths[slot]
        needed = -(-(start + tokens) // self.block_tokens) - len(table)
        shared = start % self.block_tokens != 0 and self._references[table[-1]] > 1
        if needed + shared > len(self._free):
            raise LookupError("the pool has no block left")
        copies = []
        if shared and tokens:
            fresh = self._take()
            copies.append(BlockCopy(table[-1], fresh))
            self._references[table[-1]] -= 1
            table[-1] = fresh
        table.extend(self._take() for _ in range(needed))
        self._lengths[slot] = start + tokens
        return copies

    def truncate(self, slot: int, length: int) -> None:
        """Forget the slot's tokens from `length` on; blocks that nobody uses any more become free.

        Raises:
            ValueError: the slot does not hold that many.
        """
        if not 0 <= length <= self._lengths[slot]:
            raise ValueError(
                f"slot {slot} holds {self._lengths[slot]} tokens, not at least {length}"
            )
        table = self._tables[slot]
        kept = -(-length // self.block_tokens)
        for block in table[kept:]:
            self._references[block] -= 1
            if not self._references[block]:
                self._free.append(block)
        del table[kept:]
        self._lengths[slot] = length

    def share(self, source: int, target: int, length: int) -> None:
        """Let the empty slot `target` begin with the first `length` tokens of `source`; nothing is copied.

        Raises:
            ValueError: the target is not empty, or the source does not hold that many tokens.
        """
        if self._lengths[target]:
            raise ValueError(f"slot {target} is not empty")
        if not 0 < length <= self._lengths[source]:
            raise ValueError(f"slot {source} does not hold {length} tokens")
        blocks = self._tables[source][: -(-length // self.block_tokens)]
        for block in blocks:
            self._references[block] += 1
        self._tables[target] = blocks
        self._lengths[target] = length

    @property
    def used(self) -> int:
        """Blocks that hold something."""
        return self.count - len(self._free)

    def _take(self) -> int:
        block = self._free.pop()
        self._references[block] = 1
        return block
