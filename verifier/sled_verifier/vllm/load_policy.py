"""What the roster asks and tells about load: how many draft tokens of each round to verify, and which
draft length to recommend. `HintPolicy` is the plain one: everything, as far as a step holds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sled_speculation.sampling import SamplingParams
from sled_verifier.hint import DraftHint
from sled_verifier.rounds import DraftRequest, OpenRequest, RoundVerdict


@dataclass(frozen=True, slots=True)
class Candidate:
    """A round that could be in the next step; `deadline` by the backend's clock, in seconds."""

    key: int
    draft: DraftRequest
    sampling: SamplingParams
    context_tokens: int
    deadline: float


@dataclass(frozen=True, slots=True)
class StepShape:
    """What a step was made of: tokens computed, sequences, tokens that these held already."""

    tokens: int
    sequences: int
    context_tokens: int


class LoadPolicy(Protocol):
    """One per backend; one caller at a time."""

    def opened(self, key: int, request: OpenRequest) -> None:
        """A sequence begins."""
        ...

    def closed(self, key: int) -> None:
        """It is over; unknown keys are ignored."""
        ...

    def stepped(self, shape: StepShape, rounds: int, seconds: float, now: float) -> None:
        """A step ended at `now`; `rounds` of its sequences had a round in it."""
        ...

    def judged(self, key: int, draft: DraftRequest, verdict: RoundVerdict) -> None:
        """A round got its verdict."""
        ...

    def choose(
        self,
        candidates: Sequence[Candidate],
        *,
        prefill_tokens: int,
        max_draft_tokens: int,
        now: float,
    ) -> tuple[int, ...]:
        """Draft tokens to verify of each candidate, the most urgent first; at most
        `max_draft_tokens` together.
        """
        ...

    def hint(self, key: int) -> int:
        """The draft length to recommend for a sequence."""
        ...


class HintPolicy:
    """A `LoadPolicy` that verifies what fits and recommends one length to all."""

    def __init__(self, max_draft_tokens: int) -> None:
        self._hint = DraftHint(max_draft_tokens)

    def opened(self, key: int, request: OpenRequest) -> None:
        """See `LoadPolicy.opened`."""

    def closed(self, key: int) -> None:
        """See `LoadPolicy.closed`."""

    def stepped(self, shape: StepShape, rounds: int, seconds: float, now: float) -> None:
        """See `LoadPolicy.stepped`."""
        self._hint.observe(shape.tokens, rounds, seconds, now)

    def judged(self, key: int, draft: DraftRequest, verdict: RoundVerdict) -> None:
        """See `LoadPolicy.judged`."""
        self._hint.judged(verdict.accepted, verdict.verified)

    def choose(
        self,
        candidates: Sequence[Candidate],
        *,
        prefill_tokens: int,
        max_draft_tokens: int,
        now: float,
    ) -> tuple[int, ...]:
        """See `LoadPolicy.choose`."""
        chosen = []
        for candidate in candidates:
            chosen.append(min(len(candidate.draft.draft_tokens), max(0, max_draft_tokens)))
            max_draft_tokens -= chosen[-1]
        return tuple(chosen)

    def hint(self, key: int) -> int:
        """See `LoadPolicy.hint`."""
        return self._hint.draft_tokens
