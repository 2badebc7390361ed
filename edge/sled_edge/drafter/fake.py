"""A drafter that is right as often as it is told to be; for tests, benchmarks and trying things out without a model.

Deterministic: the same prefix and sampling always give the same draft.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from sled_edge.drafter.base import DrafterInfo, KeepDrafting, Proposal
from sled_protocol.distribution import DraftDistribution
from sled_protocol.limits import DEFAULT_DRAFT_PROBS
from sled_speculation.drafting import draft_token
from sled_speculation.randomness import Purpose, uniform
from sled_speculation.sampling import SamplingParams
from sled_speculation.transforms import TokenSet

LogitsFunction = Callable[[Sequence[int]], NDArray[np.float32]]
"""Logits [vocab] of the token after a prefix."""
NextToken = Callable[[Sequence[int]], int]

_SURE = np.float32(12.0)


class FakeDrafter:
    """Knows the target's `logits` and misreads a share `1 - accuracy` of them, chosen by (`seed`, position).

    A misread row is shifted by one token, so its most probable token is wrong. Satisfies
    `sled_edge.drafter.base.Drafter`. `known_sequences` shows what was not forgotten.
    """

    def __init__(
        self,
        logits: LogitsFunction,
        *,
        accuracy: float = 0.8,
        seed: int = 0,
        max_probs: int = DEFAULT_DRAFT_PROBS,
        generates: bool = True,
        tokenizer_fingerprint: bytes = b"",
        seconds_per_token: float = 0.0,
    ) -> None:
        if not 0 <= accuracy <= 1:
            raise ValueError(f"accuracy is {accuracy}; allowed: 0 to 1")
        self.info = DrafterInfo("fake", "fake", generates, tokenizer_fingerprint)
        self.known_sequences: set[int] = set()
        self.closed = False
        self._logits = logits
        self._accuracy = accuracy
        self._seed = seed
        self._max_probs = max_probs
        self._seconds_per_token = seconds_per_token

    def propose(
        self,
        sequence: int,
        prefix: Sequence[int],
        max_tokens: int,
        sampling: SamplingParams,
        keep_drafting: KeepDrafting,
    ) -> Proposal:
        """See `Drafter.propose`."""
        started = time.perf_counter()
        self.known_sequences.add(sequence)
        text = list(prefix)
        seen = TokenSet(prefix)
        distributions: list[DraftDistribution] = []
        confidences: list[float] = []
        while len(confidences) < max_tokens and keep_drafting(confidences):
            if self._seconds_per_token:
                time.sleep(self._seconds_per_token)
            token, distribution, confidence = draft_token(
                self._guess(text),
                sampling,
                seen,
                len(text),
                self._max_probs,
                round_start=len(prefix),
            )
            text.append(token)
            seen.add(token)
            confidences.append(confidence)
            if distribution is not None:
                distributions.append(distribution)
        tokens = tuple(text[len(prefix) :])
        seconds = time.perf_counter() - started
        return Proposal(tokens, tuple(distributions), tuple(confidences), seconds)

    def forget(self, sequence: int) -> None:
        """See `Drafter.forget`."""
        self.known_sequences.discard(sequence)

    def close(self) -> None:
        """See `Drafter.close`."""
        self.known_sequences.clear()
        self.closed = True

    def _guess(self, text: Sequence[int]) -> NDArray[np.float32]:
        row = self._logits(text)
        if uniform(self._seed, len(text), Purpose.DRAFT) < self._accuracy:
            return row
        return np.roll(row, 1)


def sure_logits(next_token: NextToken, vocab_size: int) -> LogitsFunction:
    """Logits of a target of which only the greedy token is known: nearly all probability on it."""

    def logits(prefix: Sequence[int]) -> NDArray[np.float32]:
        row = np.zeros(vocab_size, np.float32)
        row[next_token(prefix)] = _SURE
        return row

    return logits
