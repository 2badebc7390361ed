"""One sequence of the vLLM backend: its session, and what the target has chosen beyond it. Must not know
steps.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from sled_verifier.load_control import Candidate
from sled_verifier.queue import Round
from sled_verifier.rounds import TOKEN_ARRAY
from sled_verifier.session import Session


@dataclass(slots=True)
class Sequence:
    """A session and what the target has chosen beyond it.

    `wanted`: its prompt is to be computed though no draft has come yet. `unguidable`: the runtime cannot
    follow its guide; it waits to be closed.
    """

    session: Session
    foretold: list[int] = field(default_factory=list)
    wanted: bool = True
    unguidable: bool = False

    @property
    def prefix(self) -> array[int]:
        """All tokens that are sure, foretold ones included."""
        return array(TOKEN_ARRAY, [*self.session.tokens, *self.foretold])

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
