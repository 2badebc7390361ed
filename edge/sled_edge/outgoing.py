"""What a generation sends: proposals of the drafter cut to all limits, and the rounds that they make.

Pure but for what it reads of link and session. Must not draft, wait or send.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from sled_edge.config import DraftingMode
from sled_edge.draft_worker import DraftWorker
from sled_edge.drafter.base import Proposal
from sled_edge.link import Link, RoundDraft
from sled_edge.session import Session, StopRules
from sled_speculation.draft_length_policy import RUN_TOKENS

NO_DRAFT = Proposal(())
Sendable = tuple[Proposal, RoundDraft]
"""What the drafter proposed, as far as it is sent, and the round with it."""


@dataclass(frozen=True, slots=True)
class RoundContext:
    """What all generations of a device share."""

    link: Link
    worker: DraftWorker
    mode: DraftingMode
    rules: Callable[[], StopRules]
    draft_ahead: bool


class Outgoing:
    """The sending side of one session. `hint` is the verifier's last word on the draft length."""

    def __init__(self, session: Session, context: RoundContext) -> None:
        self.hint: int | None = None
        self._session = session
        self._context = context

    @property
    def bound(self) -> int | None:
        """The verifier's say on the draft length: its present hint within its fixed limit."""
        target = self._context.link.state().target
        if target is None:
            return self.hint
        if self.hint is None:
            return target.max_draft_tokens
        return min(self.hint, target.max_draft_tokens)

    def now(self, proposal: Proposal, plain_tokens: int) -> RoundDraft:
        """The next round; without a draft the verifier may go on for `plain_tokens` at least."""
        session = self._session
        room = session.draft_room(self._context.rules())
        plain = 0 if proposal.tokens else plain_tokens
        return _round(proposal, session.committed_length, session.prefix_hash, room, plain)

    def after(self, draft: RoundDraft, follows_token: int, proposal: Proposal) -> Sendable | None:
        """The round after `draft` if all of that is accepted and this token follows; None where the text ends there."""
        session, rules = self._session, self._context.rules()
        base = (*draft.tokens, follows_token)
        room = session.draft_room(rules) - len(base)
        kept = self.within(proposal, room)
        if session.ends_in(base, rules) or not kept.tokens:
            return None
        length = session.committed_length + len(base)
        return kept, _round(kept, length, session.hash_after(base), room, 0)

    def within(self, proposal: Proposal, room: int) -> Proposal:
        """As much of a proposal as may be sent: within `room`, within what the verifier takes, nothing after an end token.
        Distributions go along only where they have a say.
        """
        session, bound = self._session, self.bound
        keep = min(room, session.trim_draft(proposal.tokens, self._context.rules()))
        keep = max(0, keep if bound is None else min(keep, bound))
        distributions = proposal.distributions[:keep]
        if self._context.mode is not DraftingMode.REJECTION or session.sampling.greedy:
            distributions = ()
        return replace(
            proposal,
            tokens=proposal.tokens[:keep],
            distributions=distributions,
            confidences=proposal.confidences[:keep],
        )


def _round(
    proposal: Proposal, committed_length: int, prefix_hash: int, room_tokens: int, plain: int
) -> RoundDraft:
    return RoundDraft(
        committed_length,
        prefix_hash,
        proposal.tokens,
        proposal.distributions,
        proposal.draft_seconds,
        () if proposal.distributions else tuple(proposal.confidences),
        min(plain or RUN_TOKENS, room_tokens + 1),
        plain > 0,
    )
