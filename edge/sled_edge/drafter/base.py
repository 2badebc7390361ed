"""What the speculation loop asks of a draft model. Drafters know nothing of the network or of the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sled_protocol.distribution import DraftDistribution
from sled_speculation.sampling import SamplingParams

KeepDrafting = Callable[[Sequence[float]], bool]
"""Asked before each further token with the confidences so far; False ends the draft early."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A draft: `tokens`, and for each the distribution it was sampled from.

    `distributions` is empty when every token is a point mass (greedy, n-gram); otherwise as long as `tokens`.
    `confidences` are the drafter's own probabilities of its tokens, in [0, 1], as long as `tokens`.
    """

    tokens: tuple[int, ...]
    distributions: tuple[DraftDistribution, ...] = ()
    confidences: tuple[float, ...] = ()
    draft_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class DrafterInfo:
    """Facts about a drafter that never change."""

    name: str
    kind: str
    """`llamacpp`, `ngram` or `fake`."""
    generates: bool
    """True when it can write text on its own while the verifier is away."""
    tokenizer_fingerprint: bytes
    """Empty when it works on any vocabulary."""


class Drafter(Protocol):
    """Guesses the continuation of a prefix; keeps and rolls back its own cache per sequence.

    Not thread-safe: one thread owns it. With a temperature above 0 a model drafter samples each token from exactly the
    quantised distribution that it returns, with randomness keyed by (seed, position).
    """

    info: DrafterInfo

    def propose(
        self,
        sequence: int,
        prefix: Sequence[int],
        max_tokens: int,
        sampling: SamplingParams,
        keep_drafting: KeepDrafting,
    ) -> Proposal:
        """Propose up to `max_tokens` tokens after `prefix` (prompt + committed). May return none."""
        ...

    def forget(self, sequence: int) -> None:
        """Free what is kept for a sequence; unknown sequences are ignored."""
        ...

    def close(self) -> None:
        """Free all memory."""
        ...
