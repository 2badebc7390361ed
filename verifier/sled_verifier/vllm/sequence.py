"""One sequence of the vLLM backend: its session, what the target has chosen beyond it, and when its
device usually answers. Must not know steps.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from sled_verifier.load_control import Candidate
from sled_verifier.queue import Round
from sled_verifier.rounds import TOKEN_ARRAY
from sled_verifier.session import Session
from sled_verifier.vllm.gathering import MARGIN


@dataclass(slots=True)
class Sequence:
    """A session and what the target has chosen beyond it.

    `wanted`: its prompt is to be computed though no draft has come yet. `answered_at` is None while
    a round waits or none was answered yet; `pause_seconds` is the last time between a verdict and
    the next draft.
    """

    session: Session
    foretold: list[int] = field(default_factory=list)
    wanted: bool = True
    answered_at: float | None = None
    pause_seconds: float | None = None

    @property
    def prefix(self) -> array[int]:
        """All tokens that are sure, foretold ones included."""
        return array(TOKEN_ARRAY, [*self.session.tokens, *self.foretold])

    def heard(self, now: float) -> None:
        """Its device sent a draft."""
        if self.answered_at is not None:
            self.pause_seconds = now - self.answered_at
            self.answered_at = None

    def due_at(self, now: float) -> float | None:
        """By when its next draft should be there; None when nobody knows or that is past."""
        if self.answered_at is None or self.pause_seconds is None:
            return None
        due = self.answered_at + MARGIN * self.pause_seconds
        return due if due >= now else None

    def candidate(self, waiting: Round) -> Candidate:
        """Its waiting round as the load policy sees it."""
        session = self.session
        return Candidate(
            waiting.key,
            waiting.draft,
            session.sampling,
            session.cacheable_length,
            waiting.deadline,
        )
