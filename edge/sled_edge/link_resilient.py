"""Rounds over interchangeable, mortal verifiers: opens, moves, repeats, until there is a verdict or a typed no.

Must not change a round: whatever happens, the same draft is sent again, so the same verdict comes back.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sled_edge.link import (
    CANNOT_GUIDE,
    LinkState,
    RoundDraft,
    RoundVerdict,
    SequenceRefused,
    SequenceView,
    Target,
    VerifierUnavailable,
)
from sled_edge.link_backoff import LinkTiming
from sled_edge.link_connector import Connector, LinkObserver, SilentObserver
from sled_edge.link_frames import (
    DeviceFacts,
    close_frame,
    draft_frame,
    open_frame,
    reason_name,
    verdict_problem,
)
from sled_edge.link_retry import OPENS_ANEW, Reaction, RetryBudget, reaction_to
from sled_edge.link_runs import length_after
from sled_edge.link_stream import Answer, AnswerLate, VerifierStream
from sled_edge.link_transport import Dialer, StreamEnded
from sled_edge.log import fields
from sled_protocol.v1 import verifier_pb2 as pb

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Place:
    """Where a sequence is open; nowhere when `stream` is None."""

    stream: VerifierStream | None = None
    wire_id: int = 0
    offered_bytes: int = 0
    """Of drafts that were sent ahead, to be counted with the next round."""


@dataclass(slots=True)
class _Attempt:
    """One round on its way: what it may still use up, and what it has cost."""

    view: SequenceView
    draft: RoundDraft
    patience_seconds: float
    budget: RetryBudget
    started_at: float
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    late_answers: int = 0


class ResilientLink:
    """All sequences of the device over one stream at a time; satisfies `sled_edge.link.Link`.

    One event loop owns it. `facts` is asked at every handshake, because the vocabulary may become known only later.
    """

    def __init__(
        self,
        dialer: Dialer,
        endpoints: Sequence[str],
        facts: Callable[[], DeviceFacts],
        timing: LinkTiming | None = None,
        observer: LinkObserver | None = None,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._timing = timing or LinkTiming()
        self._uniform = uniform
        self._connector = Connector(
            dialer, endpoints, facts, self._timing, uniform, observer or SilentObserver()
        )
        self._places: dict[int, _Place] = {}

    async def start(self) -> None:
        """See `Link.start`."""
        self._connector.start()

    def state(self) -> LinkState:
        """See `Link.state`."""
        return self._connector.state()

    async def verify(
        self, view: SequenceView, draft: RoundDraft, patience_seconds: float
    ) -> RoundVerdict:
        """See `Link.verify`."""
        budget = RetryBudget(self._timing, self._uniform)
        attempt = _Attempt(view, draft, patience_seconds, budget, time.monotonic())
        while True:
            verdict = await self._try(attempt)
            if verdict is not None:
                return verdict

    def offer(self, view: SequenceView, draft: RoundDraft, follows_token: int) -> bool:
        """See `Link.offer`."""
        place = self._places.get(view.sequence)
        stream = place.stream if place is not None else None
        if place is None or stream is None or not stream.target.takes_ahead or stream.drain:
            return False
        limits = stream.target
        if draft.shortened(limits.max_draft_tokens, limits.max_draft_probs) is not draft:
            return False
        deadline_seconds = self._timing.deadline_seconds(0)
        frame = draft_frame(place.wire_id, draft, deadline_seconds, follows_token)
        if not stream.offer(place.wire_id, draft.committed_length, follows_token, frame):
            return False
        place.offered_bytes += frame.ByteSize()
        return True

    def release(self, sequence: int) -> None:
        """See `Link.release`."""
        place = self._places.pop(sequence, None)
        if place is not None:
            self._leave(place)

    async def close(self) -> None:
        """See `Link.close`."""
        for sequence in tuple(self._places):
            self.release(sequence)
        await self._connector.close(self._timing.close_seconds)

    async def _try(self, attempt: _Attempt) -> RoundVerdict | None:
        """Send the round once; None means try again."""
        stream = await self._stream(attempt)
        place = self._places.setdefault(attempt.view.sequence, _Place())
        limits = stream.target
        sent = attempt.draft.shortened(limits.max_draft_tokens, limits.max_draft_probs)
        try:
            answer = await self._exchange(stream, place, attempt, sent)
        except StreamEnded as reason:
            place.stream = None
            await self._pause(attempt.budget.reopen(), reason.reason, str(reason))
            return None
        except AnswerLate as late:
            await self._on_late(stream, place, attempt, late)
            return None
        message = answer.message
        if isinstance(message, pb.Refused):
            await self._on_refused(stream, place, attempt, message)
            return None
        problem = verdict_problem(message, sent, limits.vocab_size)
        if problem:
            self._leave(place)
            await self._pause(attempt.budget.reopen(), "internal", problem)
            return None
        expected = stream.runs.expects(place.wire_id, length_after(message))
        follows = expected and not message.goes_on
        return _verdict(message, attempt, limits, follows)

    async def _stream(self, attempt: _Attempt) -> VerifierStream:
        """The stream to use, the wait for it taken from the round's patience."""
        asked_at = time.monotonic()
        stream = await self._connector.stream(attempt.patience_seconds)
        attempt.patience_seconds -= time.monotonic() - asked_at
        return stream

    async def _exchange(
        self, stream: VerifierStream, place: _Place, attempt: _Attempt, sent: RoundDraft
    ) -> Answer:
        view = attempt.view
        frames: list[pb.ClientFrame] = []
        fresh_tokens = 0
        if place.stream is not stream:
            self._leave(place)
            _check_guide(view, stream.target)
            place.stream, place.wire_id = stream, stream.new_wire_id()
            frames.append(open_frame(place.wire_id, view))
            fresh_tokens = len(view.prompt_tokens) + sent.committed_length
        deadline_seconds = self._timing.deadline_seconds(fresh_tokens)
        if not stream.runs.expects(place.wire_id, sent.committed_length):
            frames.append(draft_frame(place.wire_id, sent, deadline_seconds))
        attempt.uplink_bytes += sum(frame.ByteSize() for frame in frames) + place.offered_bytes
        place.offered_bytes = 0
        answer = await stream.exchange(
            place.wire_id,
            sent.committed_length,
            frames,
            deadline_seconds + self._timing.grace_seconds,
        )
        attempt.downlink_bytes += answer.downlink_bytes
        return answer

    async def _on_late(
        self, stream: VerifierStream, place: _Place, attempt: _Attempt, late: AnswerLate
    ) -> None:
        """No verdict in time: ask once more on a stream that lives, leave one that is silent or forgets again."""
        attempt.late_answers += 1
        if place.offered_bytes:
            # Whether the verifier goes on with what was offered, nobody can know any more.
            self._leave(place)
        if not late.stream_alive or attempt.late_answers > 1:
            attempt.late_answers = 0
            stream.end(StreamEnded("unavailable", "the verifier has fallen silent"))
        await self._pause(attempt.budget.reopen(), "deadline_exceeded", str(late))

    async def _on_refused(
        self, stream: VerifierStream, place: _Place, attempt: _Attempt, refused: pb.Refused
    ) -> None:
        reason = reason_name(refused.reason)
        retry_after = refused.retry_after_ms / 1000
        reaction = reaction_to(reason)
        if reaction is Reaction.GIVE_UP:
            self._leave(place)
            raise SequenceRefused(reason, refused.message, retry_after)
        log.debug("round refused", extra=fields(reason=reason, reaction=reaction.value))
        if reaction is not Reaction.RESEND or reason in OPENS_ANEW:
            self._leave(place)
        if reaction is Reaction.MOVE:
            stream.drained(refused.message)
        busy = reaction is Reaction.RESEND
        wait = attempt.budget.resend(retry_after) if busy else attempt.budget.reopen()
        await self._pause(wait, reason, refused.message)

    async def _pause(self, wait_seconds: float | None, reason: str, message: str) -> None:
        """Wait before the next try.

        Raises:
            VerifierUnavailable: `wait_seconds` is None, the round has no tries left.
        """
        if wait_seconds is None:
            raise VerifierUnavailable(reason, message, self._timing.backoff_cap_seconds)
        if wait_seconds > 0:
            await asyncio.sleep(wait_seconds)

    def _leave(self, place: _Place) -> None:
        """Free the sequence where it was open; harmless when that stream is gone or never had it."""
        if place.stream is not None:
            place.stream.post(close_frame(place.wire_id))
            place.stream.forget(place.wire_id)
            place.stream = None


def _check_guide(view: SequenceView, target: Target) -> None:
    """A verifier that does not know guides would pass over one, so it is never sent there.

    Raises:
        SequenceRefused: the sequence is guided, and this target cannot do that.
    """
    if view.sampling.guide is not None and not target.guides:
        raise SequenceRefused("invalid_sampling", CANNOT_GUIDE)


def _verdict(message: pb.Verdict, attempt: _Attempt, target: Target, follows: bool) -> RoundVerdict:
    return RoundVerdict(
        accepted=message.accepted,
        verified=message.verified,
        next_token=message.next_token,
        bonus=message.next_token_kind == pb.NEXT_TOKEN_KIND_BONUS,
        queue_seconds=message.queue_micros / 1e6,
        compute_seconds=message.compute_micros / 1e6,
        max_draft_tokens_hint=message.max_draft_tokens_hint,
        round_trip_seconds=time.monotonic() - attempt.started_at,
        uplink_bytes=attempt.uplink_bytes,
        downlink_bytes=attempt.downlink_bytes,
        model_name=target.model_name,
        replica=target.replica,
        goes_on=message.goes_on,
        follows=follows,
    )
