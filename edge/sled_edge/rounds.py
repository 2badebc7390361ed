"""One generation, round by round: draft → verify → commit, or draft alone while no verifier is there.

Must not know who reads the text or how many generations there are.
"""

from __future__ import annotations

import copy
import functools
import logging
import time
from collections.abc import Sequence

from sled_edge.ahead import AheadRecord, DraftAhead
from sled_edge.config import DraftingMode
from sled_edge.draft_worker import DraftFailed
from sled_edge.drafter.base import Proposal
from sled_edge.generation import Delta, FinishReason, GenerationError, RoundStats
from sled_edge.link import (
    LinkError,
    RoundDraft,
    RoundVerdict,
    SequenceRefused,
    VerifierUnavailable,
)
from sled_edge.log import fields
from sled_edge.offline import OfflineSwitch
from sled_edge.outgoing import NO_DRAFT, Outgoing, RoundContext, Sendable
from sled_edge.session import Session, greedy_twin, guess_twin
from sled_speculation.acceptance import Judgement
from sled_speculation.draft_length_policy import DraftLengthPolicy

log = logging.getLogger(__name__)

ALONE_TOKENS = 4
"""Tokens that the draft model writes alone before it looks for the verifier again."""
MAX_DRAFT_FAILURES = 3


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
        self._outgoing = Outgoing(session, context)
        self._goes_on = False
        self._ahead: DraftAhead | None = None
        self._following: Sendable | None = None
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
        self._settle_ahead(draft, verdict)
        self._learn(proposal, verdict, waited_seconds)
        self._goes_on = verdict.goes_on
        judgement = Judgement(verdict.accepted, verdict.next_token, verdict.bonus)
        commit = session.commit(judgement.output(draft.tokens), self._context.rules())
        stats = _stats(draft, verdict, waited_seconds)
        return Delta(commit.tokens, round=stats, finish=commit.finish)

    async def _next_round(self) -> Sendable:
        """What to ask next; the verifier may have it already."""
        following, self._following = self._following, None
        if following is not None:
            return following
        proposal = await self._next_draft()
        return proposal, self._outgoing.now(proposal, self.lengths.plain_tokens)

    async def _next_draft(self) -> Proposal:
        """This round's draft: the one made ahead if it fits, else a new one; none where the verifier goes on by itself."""
        if self._goes_on:
            return NO_DRAFT
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return NO_DRAFT if self._starts_plain() else await self._draft()
        try:
            kept = await ahead.take()
        except DraftFailed as error:
            self._note_failure(error)
            return NO_DRAFT
        self._ahead_record.observe(kept is not None)
        if kept is None or not kept.tokens:
            return await self._draft()
        # The verdict may have asked for less since.
        return self._outgoing.within(kept, self._session.draft_room(self._context.rules()))

    def _offer(self, draft: RoundDraft, follows_token: int, proposal: Proposal) -> None:
        """Send what was drafted ahead of the verdict on `draft`, unless the text ends there."""
        following = self._outgoing.after(draft, follows_token, proposal)
        if following and self._context.link.offer(self._session, following[1], follows_token):
            self._following = following

    def _starts_plain(self) -> bool:
        """A draft model has the prompt to read first: it does so while the verifier reads it too."""
        return not self._session.committed_length and self._context.worker.info.generates

    async def _draft(self) -> Proposal:
        """A new draft, ready to send: within all limits, nothing after an end token."""
        session = self._session
        room = session.draft_room(self._context.rules())
        wanted = self.lengths.limit(self._outgoing.bound, room + 1)
        if wanted <= 0 or self._draft_failures >= MAX_DRAFT_FAILURES:
            return NO_DRAFT
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
            return NO_DRAFT
        return self._outgoing.within(proposal, wanted)

    def _begin_ahead(self, draft: RoundDraft) -> None:
        """Let the drafter work on the next round meanwhile, if that may be of use."""
        context, session = self._context, self._session
        rules = context.rules()
        wanted_tokens = session.draft_room(rules) - len(draft.tokens)
        ends = session.ends_in(draft.tokens, rules)
        if ends or wanted_tokens < 2 or not self._ahead_pays():
            return
        # A policy of its own: the one of this round is still to learn from the verdict.
        lengths = copy.deepcopy(self.lengths)
        limit = lengths.limit(self._outgoing.bound, wanted_tokens)
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
        if not verdict.follows:
            self._following = None
        if self._ahead is None:
            return
        if self._following is not None:
            self._ahead = None
            self._ahead_record.observe(True)
        elif verdict.accepted == len(draft.tokens):
            self._ahead.settle(verdict.next_token)
        else:
            self._ahead_record.observe(False)
            self._drop_ahead()

    def _drop_ahead(self) -> None:
        self._following = None
        if self._ahead is not None:
            self._ahead.abandon()
            self._ahead = None

    def _note_failure(self, error: DraftFailed) -> None:
        self._draft_failures += 1
        log.error("round without draft", extra=fields(reason="drafter_failed"), exc_info=error)

    def _learn(self, proposal: Proposal, verdict: RoundVerdict, waited_seconds: float) -> None:
        """The policy learns what a draft costs: neither time that was hidden behind a verdict nor the drafter's reading
        of the prompt, which was waited for but is not the draft's.
        """
        self._outgoing.hint = verdict.max_draft_tokens_hint
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
