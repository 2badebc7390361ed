"""Foretold tokens: what the target has chosen of a sequence before the draft for it came. Pure; must not know steps.

While a device drafts, its sequence would sit out the steps that run for others. Instead each carries it along for one token:
the target's own choice, made without a look at any draft. It cannot be in vain, for it is the next token of the text whatever
the device says. A draft that comes then is held against the foretold tokens first: where it differs it is answered at once,
without waiting for a step, and what agrees with all of them leaves only its rest to be verified. vLLM also chooses a token
whenever it has computed a prefix.

A draft token is thereby accepted when it equals the target's own choice, and is replaced by it otherwise. That leaves the
target's distribution as it is in every mode; but rejection sampling accepts more of drafts that come with distributions, so
the target runs ahead of those only where it cannot help it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sled_speculation.acceptance import Judgement
from sled_speculation.sampling import AcceptanceMode
from sled_verifier.engine.base import EngineInfo
from sled_verifier.load_control import Candidate
from sled_verifier.queue import Round
from sled_verifier.rounds import DraftRequest
from sled_verifier.session import Session

MOST_FORETOLD = 2
"""Tokens that the target may be ahead of a device. A device that takes longer than so many steps to draft holds the sequence up."""


def settle(draft_tokens: Sequence[int], foretold: Sequence[int]) -> Judgement | None:
    """The verdict on a draft, as far as foretold tokens decide it; those behind its output stay foretold.

    None: the draft begins with all of them, so the target must be asked about the rest of the draft,
    `draft_tokens[len(foretold):]`.
    """
    for index, token in enumerate(foretold):
        if index == len(draft_tokens):
            return Judgement(index, token, bonus=True)
        if draft_tokens[index] != token:
            return Judgement(index, token, bonus=False)
    return None


def may_foretell(session: Session, info: EngineInfo) -> bool:
    """Whether the target may choose one more token of a sequence whose device is drafting."""
    sampling = session.sampling
    return (
        session.rhythm.answered_at is not None
        and session.foretold < MOST_FORETOLD
        and (sampling.greedy or sampling.mode is AcceptanceMode.MATCH)
        # It looks at all tokens before one, and `Session.seen` holds only those that were told.
        and sampling.repetition_penalty == 1
        and session.tokens[-1] not in info.end_tokens
        and len(session.tokens) + 1 < info.context_tokens
    )


def candidate_of(session: Session, waiting: Round) -> Candidate:
    """A waiting round as the load policy sees it: what is left of its draft behind the foretold tokens."""
    rest = waiting.draft.beyond(session.foretold)
    context = session.cacheable_length
    return Candidate(session.key, rest, session.sampling, context, waiting.deadline)


def carried_along(session: Session) -> Candidate:
    """Such a sequence as the load policy sees it: a round that nobody waits for. Its draft is what the last step had no room for,
    where that is still right; the device will send it again.
    """
    draft = session.tail or DraftRequest(session.committed_length, None, ())
    return Candidate(session.key, draft, session.sampling, session.cacheable_length, math.inf)
