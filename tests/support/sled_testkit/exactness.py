"""Does an engine give a sequence the same logits in a crowd as alone? Shared by the exactness
tests, which demand it, and by `bench/exactness.py`, which counts how often it fails where nobody
promises it.

`Reference` is the target decoding alone. `Crowd` drives the same sequences through mixed batches:
chunked prefill beside verification, drafts that are right for a while and then wrong, rollback
after every one of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sled_verifier.engine.base import Engine, StepItem

SENTENCES: Final = (
    "The harbour was quiet except for the gulls, and the fog had not yet lifted from the water.",
    "Write a function that returns the n-th prime number, and explain why it ends.",
    "A kettle holds two litres; each cup takes 180 millilitres. How many cups can be filled?",
    "Dear Ms Okafor, thank you for your letter of 14 March, which reached us only this week.",
    "def merge(left, right):\n    result = []\n    while left and right:\n        result.append(",
    "Die Brücke ist wegen Bauarbeiten gesperrt; bitte fahren Sie über die Nordstraße.",
    "Q: Which metal is liquid at room temperature?\nA:",
    "She counted the steps twice, 39 both times, and still believed that one was missing.",
    '{"device": "pi-7", "state": "ready", "sequences": [3, 17, 24], "load": 0.82}',
    "In a small pan, melt the butter, add the flour, and stir until it smells of nuts.",
)
PROMPT_LENGTHS: Final = (1, 2, 3, 7, 15, 16, 31, 47, 48, 49, 63, 64, 65, 200, 520, 2000)
"""Around every limit that the engine has: 16 rows, 48 rows a call, 64, 256 and 512 cells."""


def prompts(
    encode_all: Sequence[int], lengths: Sequence[int] = PROMPT_LENGTHS
) -> list[tuple[int, ...]]:
    """Prompts of these lengths, cut from different places of the tokens of one long text."""
    found = []
    for index, length in enumerate(lengths):
        start = index * 37 % max(1, len(encode_all) - length)
        found.append(tuple(encode_all[start : start + length]))
    return found


def long_text(sentences: int = 260) -> str:
    """A text of about 20 tokens a sentence, in a fixed mixed order."""
    pick = random.Random(11)
    return " ".join(f"{n}. {pick.choice(SENTENCES)}" for n in range(sentences))


@dataclass(frozen=True, slots=True)
class Reference:
    """What the target does alone: `rows[i]` are the logits after the prompt and `output[:i]`."""

    prompt: tuple[int, ...]
    output: tuple[int, ...]
    rows: NDArray[np.float32]


def decode_alone(engine: Engine, prompt: tuple[int, ...], count: int) -> Reference:
    """Greedy decoding in slot 0, one token a step, nothing else in the batch; leaves the slot
    empty.
    """
    rows: list[NDArray[np.float32]] = []
    output: list[int] = []
    position, piece = 0, engine.info.max_step_tokens
    for start in range(0, len(prompt), piece):
        chunk = prompt[start : start + piece]
        (logits,) = engine.step([StepItem(0, position, chunk, 1)])
        position += len(chunk)
    rows.append(logits[-1])
    for _ in range(count):
        output.append(int(np.argmax(rows[-1])))
        (logits,) = engine.step([StepItem(0, position, (output[-1],), 1)])
        rows.append(logits[0])
        position += 1
    engine.truncate(0, 0)
    return Reference(prompt, tuple(output), np.stack(rows))


@dataclass(slots=True)
class Tally:
    """Rows compared so far, and how many of them were not the reference's."""

    rows: int = 0
    rows_differing: int = 0
    argmax_differing: int = 0
    largest_deviation: float = 0.0
    pairs: set[tuple[int, int]] = field(default_factory=set)
    """(sequences in the step, draft length) that were seen."""

    def add(self, found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
        """Compare one row of logits."""
        self.rows += 1
        if not np.array_equal(found, expected):
            self.rows_differing += 1
            self.argmax_differing += int(found.argmax() != expected.argmax())
            self.largest_deviation = max(
                self.largest_deviation, float(np.abs(found - expected).max())
            )


class Crowd:
    """The references' sequences together in one engine, in shuffled slots."""

    def __init__(self, engine: Engine, references: Sequence[Reference], seed: int) -> None:
        self._engine = engine
        self._references = references
        self._pick = random.Random(seed)
        self._slots = self._pick.sample(range(engine.info.slots), len(references))
        self._held = [0] * len(references)
        self.tally = Tally()

    def load(self) -> None:
        """Read all prompts in chunks of 1 to 48 tokens, short ones first, while loaded sequences
        are verified beside.
        """
        waiting = sorted(
            range(len(self._references)), key=lambda n: len(self._references[n].prompt)
        )
        while waiting:
            items, checks = [], []
            budget = self._engine.info.max_step_tokens
            for n in waiting[:2]:
                prompt = self._references[n].prompt
                size = min(self._pick.randint(1, 48), len(prompt) - self._held[n], budget)
                chunk = prompt[self._held[n] : self._held[n] + size]
                last = self._held[n] + size == len(prompt)
                items.append(StepItem(self._slots[n], self._held[n], chunk, int(last)))
                checks.append((n, 0, int(last)))
                self._held[n] += size
                budget -= size
            loaded = [n for n in range(len(self._references)) if n not in waiting]
            for n in self._pick.sample(loaded, min(2, len(loaded))):
                item, offset, good = self._draft(n, self._pick.randint(0, 8))
                items.append(item)
                checks.append((n, offset + 1, good))
            self._step(items, checks)
            waiting = [n for n in waiting if self._held[n] < len(self._references[n].prompt)]

    def cover(self, batch_sizes: Sequence[int], draft_lengths: Sequence[int]) -> None:
        """Steps in which every batch size meets every draft length in one of its sequences."""
        for size in batch_sizes:
            for lengths in _groups(list(draft_lengths), size, self._pick):
                chosen = self._pick.sample(range(len(self._references)), size)
                items, checks = [], []
                for n, length in zip(chosen, lengths, strict=True):
                    item, offset, good = self._draft(n, length)
                    items.append(item)
                    checks.append((n, offset + 1, good))
                    self.tally.pairs.add((size, length))
                self._step(items, checks)

    def _draft(self, n: int, length: int) -> tuple[StepItem, int, int]:
        """A draft of `length` tokens from somewhere in the reference's output, right for a while
        and then wrong.

        The step's first token is the committed one before the draft; returns also its offset in the
        output, and how many rows have a reference.
        """
        reference = self._references[n]
        offset = self._pick.randrange(max(1, len(reference.output) - length))
        start = len(reference.prompt) + offset
        if self._held[n] < start:
            offset = self._held[n] - len(reference.prompt)
            start = self._held[n]
        self._engine.truncate(self._slots[n], start)
        right = self._pick.randint(0, min(length, len(reference.output) - offset - 1))
        wrong = [self._pick.randrange(self._engine.info.vocab_size) for _ in range(length - right)]
        tokens = (*reference.output[offset : offset + 1 + right], *wrong)
        self._held[n] = start
        return StepItem(self._slots[n], start, tokens, len(tokens)), offset, 1 + right

    def _step(self, items: Sequence[StepItem], checks: Sequence[tuple[int, int, int]]) -> None:
        for (n, offset, good), item, logits in zip(
            checks, items, self._engine.step(items), strict=True
        ):
            for row in range(good):
                self.tally.add(logits[row], self._references[n].rows[offset + row])
            if offset:  # a draft: what has no reference is rolled back
                self._held[n] = item.start_position + good
                self._engine.truncate(self._slots[n], self._held[n])


def _groups(lengths: list[int], size: int, pick: random.Random) -> Iterator[list[int]]:
    """All lengths in shuffled groups of `size`; the last group is filled up at random."""
    pick.shuffle(lengths)
    for start in range(0, len(lengths), size):
        group = lengths[start : start + size]
        yield group + [pick.choice(lengths) for _ in range(size - len(group))]
