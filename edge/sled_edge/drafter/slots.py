"""Which sequence sits in which cache slot, and what tokens are there. Pure bookkeeping; knows no
model runtime.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_Tokens = NDArray[np.int64]


class SlotTable:
    """`count` slots, each with the tokens it holds, most of them owned by a sequence.

    A released slot keeps its tokens: a new sequence takes the free slot whose tokens begin most
    like its own (the next turn of a conversation finds the former one), or, when none is free, the
    slot used least recently.
    """

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"count is {count}; allowed: 1 or more")
        self._tokens: list[list[int]] = [[] for _ in range(count)]
        self._owners: dict[int, int] = {}
        self._used = [0] * count
        self._clock = 0

    def take(self, sequence: int, prefix: Sequence[int]) -> tuple[int, int]:
        """The sequence's slot (a new one when it has none) and how many first tokens of `prefix` it
        holds.
        """
        wanted = np.asarray(prefix, np.int64)
        slot = self._owners.get(sequence)
        if slot is None:
            slot = self._choose(wanted)
            self._owners = {owner: s for owner, s in self._owners.items() if s != slot}
            self._owners[sequence] = slot
        self._clock += 1
        self._used[slot] = self._clock
        return slot, self._common(slot, wanted)

    def slot_of(self, sequence: int) -> int:
        """The slot of a sequence that has one.

        Raises:
            KeyError: it has none.
        """
        return self._owners[sequence]

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        """Note that tokens were appended."""
        self._tokens[slot].extend(tokens)

    def truncate(self, slot: int, length: int) -> None:
        """Note that the tokens from `length` on were forgotten."""
        del self._tokens[slot][length:]

    def reset(self, slots: Sequence[int]) -> None:
        """Note that slots were emptied; their sequences keep them."""
        for slot in slots:
            self._tokens[slot].clear()

    def release(self, sequence: int) -> None:
        """The sequence needs its slot no longer; unknown ones are ignored."""
        self._owners.pop(sequence, None)

    def _choose(self, wanted: _Tokens) -> int:
        owned = set(self._owners.values())
        free = [slot for slot in range(len(self._tokens)) if slot not in owned]
        if not free:
            return min(range(len(self._tokens)), key=self._used.__getitem__)
        return max(free, key=lambda slot: (self._common(slot, wanted), -self._used[slot]))

    def _common(self, slot: int, wanted: _Tokens) -> int:
        held = np.asarray(self._tokens[slot][: wanted.size], np.int64)
        different = np.flatnonzero(held != wanted[: held.size])
        return int(different[0]) if different.size else int(held.size)
