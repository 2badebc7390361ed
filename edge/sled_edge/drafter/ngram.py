"""Prompt lookup: what followed the last time the text ended like this? For devices with no room for a model.

Source: Saxena 2023, "Prompt Lookup Decoding"; here with an index that grows with the text instead of a search in every round.
Must not load models; works on any vocabulary and proposes point masses only.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence

from sled_edge.drafter.base import DrafterInfo, KeepDrafting, Proposal
from sled_speculation.sampling import SamplingParams

LONGEST_MATCH = 4
MAX_INDEXED_TOKENS = 32_768
MAX_SEQUENCES = 256
_START_HITS, _START_TRIES, _FADE = 1.0, 2.0, 0.97


def _window_start(length: int) -> int:
    """First indexed token of a text; moves in halves of the window, so that an index is rarely built anew."""
    half = MAX_INDEXED_TOKENS // 2
    beyond = length - MAX_INDEXED_TOKENS
    return 0 if beyond <= 0 else -(-beyond // half) * half


class SuffixIndex:
    """Where each run of 1 to `longest` tokens was last followed by something, for one growing sequence.

    Memory: at most `longest` entries per token. Extending by n tokens costs O(n * longest).
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._ends: dict[tuple[int, ...], int] = {}
        self.tokens: list[int] = []

    def extend(self, tokens: Sequence[int]) -> None:
        """Append tokens. A run is entered once its successor is known, so a suffix never finds itself."""
        for token in tokens:
            end = len(self.tokens)
            for length in range(1, min(self._longest, end) + 1):
                self._ends[tuple(self.tokens[end - length : end])] = end
            self.tokens.append(token)

    def find(self) -> tuple[int, int]:
        """The longest suffix seen before: (index of what followed it most recently, its length); (0, 0) if none."""
        end = len(self.tokens)
        for length in range(min(self._longest, end), 0, -1):
            found = self._ends.get(tuple(self.tokens[end - length : end]))
            if found is not None:
                return found, length
        return 0, 0

    def starts(self, prefix: Sequence[int]) -> bool:
        """True when `prefix` begins with everything indexed."""
        known = len(self.tokens)
        return known <= len(prefix) and list(prefix[:known]) == self.tokens


class _Record:
    """How often drafts after a match of each length began rightly: the drafter's idea of its own confidence."""

    def __init__(self, longest: int) -> None:
        self._hits = [_START_HITS] * (longest + 1)
        self._tries = [_START_TRIES] * (longest + 1)

    def confidence(self, length: int) -> float:
        return self._hits[length] / self._tries[length]

    def learn(self, length: int, hit: bool) -> None:
        self._hits[length] = _FADE * self._hits[length] + (1.0 if hit else 0.0)
        self._tries[length] = _FADE * self._tries[length] + 1.0


class NgramDrafter:
    """Copies what followed the most recent occurrence of the longest matching suffix of prompt + committed.

    Satisfies `sled_edge.drafter.base.Drafter`. A draft that reaches the end of the text goes on in itself, so repetition is
    drafted to any length. Only the newest `MAX_INDEXED_TOKENS` tokens and `MAX_SEQUENCES` sequences are indexed.
    """

    def __init__(self, longest_match: int = LONGEST_MATCH) -> None:
        self.info = DrafterInfo("ngram", "ngram", generates=False, tokenizer_fingerprint=b"")
        self._longest = longest_match
        self._indices: OrderedDict[int, SuffixIndex] = OrderedDict()
        self._guesses: dict[int, tuple[int, int, int]] = {}
        self._record = _Record(longest_match)

    def propose(
        self,
        sequence: int,
        prefix: Sequence[int],
        max_tokens: int,
        sampling: SamplingParams,
        keep_drafting: KeepDrafting,
    ) -> Proposal:
        """See `Drafter.propose`; `sampling` does not matter to a lookup."""
        started = time.perf_counter()
        window = prefix[_window_start(len(prefix)) :]
        self._learn(sequence, prefix)
        index = self._index(sequence, window)
        source, length = index.find()
        confidence = self._record.confidence(length)
        text = index.tokens
        known = len(text)
        drafted: list[int] = []
        confidences: list[float] = []
        while length and len(drafted) < max_tokens and keep_drafting(confidences):
            place = source + len(drafted)
            drafted.append(text[place] if place < known else drafted[place - known])
            confidences.append(confidence)
        if drafted:
            self._guesses[sequence] = (len(prefix), length, drafted[0])
        return Proposal(
            tuple(drafted), (), tuple(confidences), draft_seconds=time.perf_counter() - started
        )

    def forget(self, sequence: int) -> None:
        """See `Drafter.forget`."""
        self._indices.pop(sequence, None)
        self._guesses.pop(sequence, None)

    def close(self) -> None:
        """See `Drafter.close`."""
        self._indices.clear()
        self._guesses.clear()

    def _index(self, sequence: int, window: Sequence[int]) -> SuffixIndex:
        index = self._indices.get(sequence)
        if index is None or not index.starts(window):
            index = self._indices[sequence] = SuffixIndex(self._longest)
        self._indices.move_to_end(sequence)
        index.extend(window[len(index.tokens) :])
        if len(self._indices) > MAX_SEQUENCES:
            self.forget(next(iter(self._indices)))
        return index

    def _learn(self, sequence: int, prefix: Sequence[int]) -> None:
        """Compare the last draft's first token with what was committed there."""
        guess = self._guesses.pop(sequence, None)
        if guess is not None and guess[0] < len(prefix):
            self._record.learn(guess[1], prefix[guess[0]] == guess[2])
