"""One device's decoding stream: its sequences, its rounds in flight, its bounded outbox. Must not
touch gRPC.

The servicer feeds frames in and takes frames out. Whatever ends the stream (the device, the
network, a refusal, a drain), `finish` gives everything back at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from sled_protocol.limits import MAX_FRAME_ROUNDS
from sled_protocol.v1 import verifier_pb2 as pb
from sled_verifier import frames
from sled_verifier.ahead import AheadDrafts
from sled_verifier.auth import Grant
from sled_verifier.frames import Greeting
from sled_verifier.refusal import Reason, Refusal
from sled_verifier.rounds import DraftRequest, RoundVerdict
from sled_verifier.run import next_round
from sled_verifier.service import Service
from sled_verifier.tally import DraftModelKey

_log = logging.getLogger(__name__)

OUTBOX_FRAMES = 64
"""Frames that may wait for a device that reads slowly; then nothing more is read from it."""
MAX_REFUSALS_IN_A_ROW = 256
"""A device that does nothing right for so long is broken or hostile; its stream is closed."""


class DeviceStream:
    """One stream after its `Hello`. `handle` is called by one task, `next_frame` by another.

    Raises:
        Refusal: the device has too many streams.
    """

    def __init__(self, service: Service, grant: Grant, greeting: Greeting) -> None:
        service.devices.connect(greeting.device_id)
        self._service = service
        self.departure = service.greeted()
        self._grant = grant
        self.device_id = greeting.device_id
        self._draft_model = service.tally.connect(
            DraftModelKey(greeting.draft_model, greeting.device_class, greeting.draft_revision),
            greeting.device_id,
        )
        self._sequences: dict[int, int] = {}
        self._verdicts: dict[int, RoundVerdict] = {}
        self._rounds: dict[int, asyncio.Task[None]] = {}
        self._ahead = AheadDrafts(service.metrics.sent_ahead)
        self._batches = greeting.batches
        self._outbox: asyncio.Queue[pb.ServerFrame] = asyncio.Queue(OUTBOX_FRAMES)
        self._following: pb.ServerFrame | None = None
        self._leaving = 0
        self._settling = False
        self._refused_in_a_row = 0

    async def handle(self, frame: pb.ClientFrame) -> None:
        """Act on one frame; waits while the outbox is full.

        Raises:
            Refusal: the stream as a whole is refused and must be closed.
        """
        self._check_refusals()
        kind = frame.WhichOneof("frame")
        if kind == "open":
            await self._handle_open(frame.open)
        elif kind == "draft":
            await self._handle_draft(frame.draft)
        elif kind == "drafts" and self._batches:
            await self._handle_drafts(frame.drafts.drafts)
        elif kind == "close":
            self._end_sequence(frame.close.sequence)
        else:
            raise Refusal(
                Reason.MALFORMED, "a second Hello, or a frame of a kind that this revision lacks"
            )

    async def next_frame(self) -> pb.ServerFrame:
        """The next frame to send to the device. Verdicts that wait are one frame where the device reads
        that.
        """
        frame, self._following = self._following, None
        if frame is None:
            frame = await self._outbox.get()
        self._leaving = 1
        if not self._batches or not frame.HasField("verdict") or self._outbox.empty():
            return frame
        verdicts = [frame.verdict]
        while len(verdicts) < MAX_FRAME_ROUNDS and not self._outbox.empty():
            following = self._outbox.get_nowait()
            if not following.HasField("verdict"):
                self._following = following
                break
            verdicts.append(following.verdict)
        self._leaving = len(verdicts)
        return pb.ServerFrame(verdicts=pb.Verdicts(verdicts=verdicts))

    def sent(self) -> None:
        """The frame that `next_frame` gave is on its way."""
        for _ in range(self._leaving):
            self._outbox.task_done()

    async def send(self, frame: pb.ServerFrame) -> None:
        """Queue a frame; waits while the outbox is full."""
        await self._outbox.put(frame)

    async def settle(self) -> None:
        """Wait until every round in flight is answered and every queued frame is sent."""
        self._settling = True
        while self._rounds:
            await asyncio.wait(list(self._rounds.values()))
        await self._outbox.join()

    def finish(self) -> None:
        """Give back everything this stream holds. To be called exactly once."""
        for sequence in list(self._sequences):
            self._end_sequence(sequence)
        self._service.left(self.departure)
        self._service.tally.disconnect(self._draft_model, self.device_id)
        self._service.devices.disconnect(self.device_id)

    # ---- frames

    async def _handle_open(self, message: pb.Open) -> None:
        # A stream lives for hours; a token that was withdrawn must not open anything more on it.
        self._service.door.check(self._grant)
        sequence = message.sequence
        try:
            if sequence in self._sequences:
                raise Refusal(Reason.DUPLICATE_SEQUENCE, "this sequence is open; close it first")
            self._service.check_not_draining()
            request = frames.read_open(message, self.device_id, self._service.backend.info)
            request = self._service.of_tenant(request)
            request = replace(request, draft_model=self._draft_model[0])
            self._service.devices.take_sequence(self.device_id)
            try:
                admission = await self._service.backend.open(request)
            except BaseException:
                self._service.devices.give_sequence(self.device_id)
                raise
        except Refusal as refusal:
            await self._refuse(sequence, refusal)
            return
        self._sequences[sequence] = admission.key
        self._refused_in_a_row = 0
        self._service.tally.prompt_tokens += len(request.prompt_tokens)
        self._service.metrics.sequence_opened(len(request.prompt_tokens))
        opened = pb.Opened(sequence=sequence, cached_tokens=admission.cached_tokens)
        await self.send(pb.ServerFrame(opened=opened))

    async def _handle_drafts(self, messages: Sequence[pb.Draft]) -> None:
        if len(messages) > MAX_FRAME_ROUNDS:
            raise Refusal(
                Reason.MALFORMED,
                f"a frame has {len(messages)} drafts; allowed: {MAX_FRAME_ROUNDS}",
            )
        for message in messages:
            self._check_refusals()
            await self._handle_draft(message)

    def _check_refusals(self) -> None:
        if self._refused_in_a_row > MAX_REFUSALS_IN_A_ROW:
            raise Refusal(Reason.MALFORMED, f"{MAX_REFUSALS_IN_A_ROW} refusals in a row")

    async def _handle_draft(self, message: pb.Draft) -> None:
        sequence = message.sequence
        if message.HasField("follows_token") and not self._is_due(message):
            return
        try:
            self._service.check_not_draining()
            key = self._sequences.get(sequence)
            if key is None:
                raise Refusal(Reason.UNKNOWN_SEQUENCE, "no such sequence on this stream; open it")
            if sequence in self._rounds:
                raise Refusal(
                    Reason.ROUND_IN_FLIGHT, "the sequence's previous draft has no verdict yet"
                )
            request = self._read(message)
        except Refusal as refusal:
            await self._refuse(sequence, refusal, message.committed_length)
            return
        self._rounds[sequence] = asyncio.create_task(
            self._round(sequence, key, request, message.draft_micros)
        )

    def _is_due(self, message: pb.Draft) -> bool:
        """Whether a draft that was sent ahead is the next round by now; while a round runs it is kept."""
        if message.sequence in self._rounds:
            self._ahead.keep(message)
            return False
        return self._ahead.holds(message, self._verdicts.get(message.sequence))

    def _read(self, message: pb.Draft) -> DraftRequest:
        return frames.read_draft(message, self._service.backend.info, self._service.limits)

    async def _round(
        self, sequence: int, key: int, request: DraftRequest, draft_micros: int
    ) -> None:
        """Carry one draft to the backend and its answer to the outbox, and the rounds that follow it at once: unasked, or asked
        for ahead.
        """
        following: DraftRequest | None = request
        committed_length = request.committed_length
        try:
            while following is not None:
                committed_length = following.committed_length
                verdict = await self._verify(sequence, key, following, draft_micros)
                ahead = self._ahead.next_round(sequence, verdict)
                following = None if ahead is not None else self._unasked(following, verdict)
                await self.send(
                    frames.verdict_frame(sequence, verdict, goes_on=following is not None)
                )
                draft_micros = 0
                if following is None:
                    # The outbox may have been full for a while.
                    ahead = ahead or self._ahead.next_round(sequence, verdict)
                if ahead is not None:
                    committed_length, draft_micros = ahead.committed_length, ahead.draft_micros
                    self._service.check_not_draining()
                    following = self._read(ahead)
        except Refusal as refusal:
            if refusal.reason is Reason.UNKNOWN_SEQUENCE:
                self._forget(sequence)
            await self._refuse(sequence, refusal, committed_length)
        except Exception:
            # A defect of the backend; without an answer (typed: INTERNAL) the device would wait for
            # ever.
            _log.exception("a round failed", extra={"device_id": self.device_id})
            broken = Refusal(Reason.INTERNAL, "the round failed; send the draft again", 500)
            await self._refuse(sequence, broken, committed_length)
        finally:
            if self._rounds.get(sequence) is asyncio.current_task():
                del self._rounds[sequence]
                self._ahead.drop(sequence)

    async def _verify(
        self, sequence: int, key: int, request: DraftRequest, draft_micros: int
    ) -> RoundVerdict:
        """One verdict, noted."""
        verdict = await self._service.backend.verify(key, request)
        # A repeated draft gets the very same verdict and is no further round.
        if verdict is not self._verdicts.get(sequence):
            self._verdicts[sequence] = verdict
            sent = len(request.draft_tokens)
            self._service.note_round(self._draft_model, verdict, sent, draft_micros)
        self._refused_in_a_row = 0
        return verdict

    def _unasked(self, request: DraftRequest, verdict: RoundVerdict) -> DraftRequest | None:
        """The round with which the verifier goes on by itself."""
        if self._settling or self._service.draining or self.departure.asked.is_set():
            return None
        following = next_round(request, verdict, self._service.backend.info.end_tokens)
        if following is not None:
            self._service.metrics.went_on()
        return following

    def _end_sequence(self, sequence: int) -> None:
        running = self._rounds.pop(sequence, None)
        if running is not None:
            running.cancel()
        self._ahead.drop(sequence)
        key = self._forget(sequence)
        if key is not None:
            self._service.backend.close(key)

    def _forget(self, sequence: int) -> int | None:
        self._verdicts.pop(sequence, None)
        key = self._sequences.pop(sequence, None)
        if key is not None:
            self._service.devices.give_sequence(self.device_id)
        return key

    async def _refuse(self, sequence: int, refusal: Refusal, committed_length: int = 0) -> None:
        self._refused_in_a_row += 1
        loud = self._refused_in_a_row == 1
        self._service.note_refusal(refusal, self.device_id, sequence, loud=loud)
        await self.send(frames.refused_frame(sequence, refusal, committed_length))
