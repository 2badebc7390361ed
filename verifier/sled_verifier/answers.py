"""What becomes of a round once the target has spoken: its verdict, what is learnt from it, what the sequence then is. Must not
decide what a step runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sled_speculation.acceptance import Judgement
from sled_verifier.foretold import settle
from sled_verifier.load_control import LoadControl
from sled_verifier.queue import Round
from sled_verifier.refusal import Reason, Refusal
from sled_verifier.rounds import DraftRequest, Load, RoundVerdict
from sled_verifier.session import Session


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one round."""

    key: int
    draft: DraftRequest
    result: RoundVerdict | Refusal


class Answers:
    """Verdicts of one backend. `seconds` are those of the step that brought one, 0 where none was needed."""

    def __init__(self, control: LoadControl, load: Callable[[], Load]) -> None:
        self._control = control
        self._load = load

    def foretold(
        self, session: Session, waiting: Round, seconds: float, now: float
    ) -> Outcome | None:
        """The answer to a draft that what is foretold decides; None where the target must be asked about its rest."""
        draft_tokens = waiting.draft.draft_tokens
        judgement = settle(draft_tokens, session.untold())
        if judgement is None:
            return None
        return self._answer(session, waiting, judgement, len(draft_tokens), seconds, now)

    def judged(
        self,
        session: Session,
        waiting: Round,
        rest: Judgement,
        verified: int,
        seconds: float,
        now: float,
    ) -> Outcome:
        """The answer to a draft that agrees with all that is foretold, when so many tokens of its rest were verified."""
        told = session.foretold
        whole = Judgement(told + rest.accepted, rest.next_token, rest.bonus)
        return self._answer(session, waiting, whole, told + verified, seconds, now)

    def _answer(
        self,
        session: Session,
        waiting: Round,
        judgement: Judgement,
        verified: int,
        seconds: float,
        now: float,
    ) -> Outcome:
        verdict = RoundVerdict(
            committed_length=waiting.draft.committed_length,
            accepted=judgement.accepted,
            verified=verified,
            next_token=judgement.next_token,
            bonus=judgement.bonus,
            queue_seconds=max(0.0, now - seconds - waiting.arrived),
            compute_seconds=seconds,
            max_draft_tokens_hint=self._control.hint(session.key),
            load=self._load(),
        )
        self._control.judged(session.key, waiting.draft, verdict)
        session.commit(waiting.draft, verdict, now)
        return Outcome(session.key, waiting.draft, verdict)


def late(waiting: Round, now: float, what: str = "a step") -> Outcome:
    """The refusal of a round whose deadline has passed while it waited for `what`."""
    sentence = f"the draft waited {now - waiting.arrived:.1f} seconds for {what}"
    refusal = Refusal(Reason.DEADLINE_EXCEEDED, sentence, retry_after_ms=500)
    return Outcome(waiting.key, waiting.draft, refusal)
