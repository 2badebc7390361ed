"""One generation, round by round: draft → verify → commit, or draft alone while no verifier is there.

Must not know who reads the text or how many generations there are.
"""

from __future__ import annotations

import copy
import functools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sled_edge.ahead import AheadRecord, DraftAhead
from sled_edge.config import DraftingMode
from sled_edge.draft_worker import DraftFailed, DraftWorker
from sled_edge.drafter.base import Proposal
from sled_edge.generation import Delta, FinishReason, GenerationError, RoundStats
from sled_edge.link import (
    Link,
    LinkError,
    RoundDraft,
    RoundVerdict,
    SequenceRefused,
    VerifierUnavailable,
)
from sled_edge.log import fields
from sled_edge.offline import OfflineSwitch
from sled_edge.session import Session, StopRules, greedy_twin, guess_twin
from sled_speculation.acceptance import Judgement
from sled_speculation.draft_length_policy import RUN_TOKENS, DraftLengthPolicy

log = logging.getLogger(__name__)

ALONE_TOKENS = 4
"""Tokens that the draft model writes alone before it looks for the verifier again."""
MAX_DRAFT_FAILURES = 3
_NO_DRAFT = Proposal(())
_Sendable = tuple[Proposal, RoundDraft]
"""What the drafter proposed, as far as it is sent, and the round with it."""


@dataclass(frozen=True, slots=True)
class RoundContext:
    """What all generations of a device share."""

    link: Link
    worker: DraftWorker
    mode: DraftingMode
    rules: Callable[[], StopRules]
    draft_ahead: bool


class Generation:
    """The rounds of one session. `step` until a delta has `finish`; whoever drives it frees link and worker."""

    def __init__(
        self,
        session: Session,
        context: RoundContext,
        switch: OfflineSwitch,
        lengths: DraftLengthPolicy,
    ) -> None:
        self.lengths = lengths
        self._session = session
        self._context = context
        self._switch = switch
        self._hint: int | None = None
        self._goes_on = False
        self._ahead: DraftAhead | None = None
        self._offered: _Sendable | None = None
        self._following: _Sendable | None = None
        self._ahead_record = AheadRecord()
        self._draft_failures = 0
        point_mass = context.mode is DraftingMode.POINT_MASS
        self._draft_sampling = greedy_twin(session.sampling) if point_mass else session.sampling

    def close(self) -> None:
        """No further step will be asked for; never waits."""
        self._drop_ahead()

    async def step(self) -> Delta:
        """The next output tokens.

        Raises:
            GenerationError: the generation cannot go on.
        """
        finish = self._session.finished(self._context.rules())
        if finish is not None:
            return Delta((), finish=finish)
        link = self._context.link
        if not self._switch.ask_verifier(link.state(), time.monotonic()):
            return await self._write_alone()
        try:
            return await self._round()
        except VerifierUnavailable as error:
            if not self._switch.failed(link.state(), error.reason, time.monotonic()):
                raise _generation_error(error) from error
            log.warning("the draft model goes on alone", extra=fields(reason=error.reason))
            link.release(self._session.sequence)
            return await self._write_alone()
        except SequenceRefused as error:
            if error.reason == "context_full" and self._session.committed_length:
                return Delta((), finish=FinishReason.CONTEXT_FULL)
            raise _generation_error(error) from error
        except LinkError as error:
            raise _generation_error(error) from error

    async def _round(self) -> Delta:
        session = self._session
        started = time.perf_counter()
        proposal, draft = await self._next_round()
        waited_seconds = time.perf_counter() - started
        self._begin_ahead(draft)
        patience = self._switch.patience_seconds(started=session.committed_length > 0)
        verdict = await self._context.link.verify(session, draft, patience)
        self._switch.verified()
        session.pin_model(verdict.model_name)
        self._settle_offer(verdict)
        self._settle_ahead(draft, verdict)
        self._learn(proposal, verdict, waited_seconds)
        self._goes_on = verdict.goes_on
        judgement = Judgement(verdict.accepted, verdict.next_token, verdict.bonus)
        commit = session.commit(judgement.output(draft.tokens), self._context.rules())
        stats = _stats(draft, verdict, waited_seconds)
        return Delta(commit.tokens, round=stats, finish=commit.finish)

    async def _next_round(self) -> _Sendable:
        """What to ask next; the verifier may have it already."""
        following, self._following = self._following, None
        if following is not None:
            return following
        session = self._session
        proposal = await self._next_draft()
        room = session.draft_room(self._context.rules())
        return proposal, self._asked(proposal, session.committed_length, session.prefix_hash, room)

    def _asked(
        self, proposal: Proposal, committed_length: int, prefix_hash: int, room_tokens: int
    ) -> RoundDraft:
        plain = 0 if proposal.tokens else self.lengths.plain_tokens
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

    async def _next_draft(self) -> Proposal:
        """This round's draft: the one made ahead if it fits, else a new one; none where the verifier goes on by itself."""
        if self._goes_on:
            return _NO_DRAFT
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return _NO_DRAFT if self._starts_plain() else await self._draft()
        try:
            kept = await ahead.take()
        except DraftFailed as error:
            self._note_failure(error)
            return _NO_DRAFT
        self._ahead_record.observe(kept is not None)
        if kept is None or not kept.tokens:
            return await self._draft()
        rules = self._context.rules()
        keep = min(self._session.draft_room(rules), self._session.trim_draft(kept.tokens, rules))
        bound = self._bound()
        # The verdict may have asked for less since.
        return self._sendable(kept, keep if bound is None else min(keep, bound))

    def _offer(self, draft: RoundDraft, follows_token: int, proposal: Proposal) -> None:
        """Send what was drafted ahead of the verdict on `draft`, unless the text ends there."""
        session, rules = self._session, self._context.rules()
        base = (*draft.tokens, follows_token)
        room = session.draft_room(rules) - len(base)
        bound = self._bound()
        keep = min(room, session.trim_draft(proposal.tokens, rules))
        keep = keep if bound is None else min(keep, bound)
        ends = not session.ignore_end_tokens and follows_token in rules.end_tokens
        if keep <= 0 or ends:
            return
        sendable = self._sendable(proposal, keep)
        following = self._asked(
            sendable, session.committed_length + len(base), session.hash_after(base), room
        )
        if self._context.link.offer(session, following, follows_token):
            self._offered = sendable, following

    def _settle_offer(self, verdict: RoundVerdict) -> None:
        offered, self._offered = self._offered, None
        if verdict.follows and offered is not None:
            self._following = offered
            self._ahead = None
            self._ahead_record.observe(True)

    def _starts_plain(self) -> bool:
        """A draft model has the prompt to read first: it does so while the verifier reads it too."""
        return not self._session.committed_length and self._context.worker.info.generates

    async def _draft(self) -> Proposal:
        """A new draft, ready to send: within all limits, nothing after an end token."""
        session, rules = self._session, self._context.rules()
        wanted = self.lengths.limit(self._bound(), session.draft_room(rules) + 1)
        if wanted <= 0 or self._draft_failures >= MAX_DRAFT_FAILURES:
            return _NO_DRAFT
        try:
            proposal = await self._context.worker.propose(
                session.sequence,
                session.prefix,
                wanted,
                self._draft_sampling,
                self.lengths.keep_drafting,
            )
        except DraftFailed as error:
            self._note_failure(error)
            return _NO_DRAFT
        return self._sendable(proposal, min(wanted, session.trim_draft(proposal.tokens, rules)))

    def _begin_ahead(self, draft: RoundDraft) -> None:
        """Let the drafter work on the next round meanwhile, if that may be of use."""
        context, session = self._context, self._session
        rules = context.rules()
        wanted_tokens = session.draft_room(rules) - len(draft.tokens)
        ends = session.trim_draft((*draft.tokens, -1), rules) <= len(draft.tokens)
        if ends or wanted_tokens < 2 or not self._ahead_pays():
            return
        # A policy of its own: the one of this round is still to learn from the verdict.
        lengths = copy.deepcopy(self.lengths)
        limit = lengths.limit(self._bound(), wanted_tokens)
        if limit > 0:
            self._ahead = DraftAhead(
                context.worker,
                session.sequence,
                session.prefix,
                draft.tokens,
                limit,
                self._draft_sampling,
                guess_twin(session.sampling),
                lengths.keep_drafting,
            )
            self._ahead.when_done(functools.partial(self._offer, draft))

    def _ahead_pays(self) -> bool:
        context = self._context
        if not context.worker.info.generates or self._draft_failures >= MAX_DRAFT_FAILURES:
            return False
        if self._goes_on:
            return False
        if self._starts_plain():
            return True
        return context.draft_ahead and not context.worker.wanted and self._ahead_record.worth()

    def _settle_ahead(self, draft: RoundDraft, verdict: RoundVerdict) -> None:
        if self._ahead is None:
            return
        if verdict.accepted == len(draft.tokens):
            self._ahead.settle(verdict.next_token)
        else:
            self._ahead_record.observe(False)
            self._drop_ahead()

    def _drop_ahead(self) -> None:
        self._offered = self._following = None
        if self._ahead is not None:
            self._ahead.abandon()
            self._ahead = None

    def _note_failure(self, error: DraftFailed) -> None:
        self._draft_failures += 1
        log.error("round without draft", extra=fields(reason="drafter_failed"), exc_info=error)

    def _sendable(self, proposal: Proposal, keep: int) -> Proposal:
        session = self._session
        distributions = proposal.distributions[:keep]
        if self._context.mode is not DraftingMode.REJECTION or session.sampling.greedy:
            distributions = ()
        return replace(
            proposal,
            tokens=proposal.tokens[:keep],
            distributions=distributions,
            confidences=proposal.confidences[:keep],
        )

    def _bound(self) -> int | None:
        """The verifier's say on the draft length: its present hint within its fixed limit."""
        target = self._context.link.state().target
        if target is None:
            return self._hint
        if self._hint is None:
            return target.max_draft_tokens
        return min(self._hint, target.max_draft_tokens)

    def _learn(self, proposal: Proposal, verdict: RoundVerdict, waited_seconds: float) -> None:
        """The policy learns what a draft costs: neither time that was hidden behind a verdict nor the drafter's reading
        of the prompt, which was waited for but is not the draft's.
        """
        self._hint = verdict.max_draft_tokens_hint
        served_seconds = verdict.queue_seconds + verdict.compute_seconds
        if self._goes_on:
            self.lengths.observe_run(served_seconds)
            return
        self.lengths.observe(
            len(proposal.tokens),
            verdict.accepted,
            min(waited_seconds, proposal.draft_seconds),
            verdict.round_trip_seconds,
            proposal.confidences,
            verdict.verified,
            served_seconds,
        )

    async def _write_alone(self) -> Delta:
        """A few tokens of the draft model itself, sampled as the request asked, marked unverified."""
        self._drop_ahead()
        session, rules = self._session, self._context.rules()
        wanted = min(ALONE_TOKENS, session.draft_room(rules) + 1)
        try:
            proposal = await self._context.worker.propose(
                session.sequence, session.prefix, wanted, session.sampling, _always
            )
        except DraftFailed as error:
            raise GenerationError("unavailable", "no verifier, and the drafter failed") from error
        if not proposal.tokens:
            return Delta((), verified=False, finish=FinishReason.CONTEXT_FULL)
        commit = session.commit(proposal.tokens[:wanted], rules)
        return Delta(commit.tokens, verified=False, finish=commit.finish)


def _always(_confidences: Sequence[float]) -> bool:
    return True


def _stats(draft: RoundDraft, verdict: RoundVerdict, waited_seconds: float) -> RoundStats:
    return RoundStats(
        draft_tokens=len(draft.tokens),
        accepted_tokens=verdict.accepted,
        draft_seconds=waited_seconds,
        round_trip_seconds=verdict.round_trip_seconds,
        queue_seconds=verdict.queue_seconds,
        compute_seconds=verdict.compute_seconds,
        uplink_bytes=verdict.uplink_bytes,
        downlink_bytes=verdict.downlink_bytes,
    )


def _generation_error(error: LinkError) -> GenerationError:
    return GenerationError(error.reason, str(error), error.retry_after_seconds)
