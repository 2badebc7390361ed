"""One live stream to one verifier, shared by all sequences. Must not decide where or how often to try.

Two tasks belong to a stream: a reader that hands every answer to the exchange waiting for it, and a writer that keeps
frames in order. Both end with the stream, and whoever waits then learns why.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sled_edge.link import Target
from sled_edge.link_frames import DeviceFacts, hello_frame, reason_name, target_of
from sled_edge.link_runs import Runs, RunTooLong
from sled_edge.link_transport import FrameStream, StreamEnded
from sled_protocol.limits import MAX_FRAME_ROUNDS
from sled_protocol.v1 import verifier_pb2 as pb

MAX_QUEUED_FRAMES = 4096
_CLOSED = "closed"


class AnswerLate(Exception):
    """No answer within the time. `stream_alive` says whether anything arrived on the stream meanwhile."""

    def __init__(self, stream_alive: bool) -> None:
        super().__init__("no verdict within the deadline")
        self.stream_alive = stream_alive


@dataclass(slots=True)
class _Exchange:
    committed_length: int
    answer: asyncio.Future[pb.Verdict | pb.Refused]
    downlink_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one exchange, and the bytes of the frames on both ways."""

    message: pb.Verdict | pb.Refused
    uplink_bytes: int
    downlink_bytes: int


@dataclass(slots=True)
class StreamCounters:
    """What a stream saw that nobody waited for; for tests and logs."""

    stray_answers: int = 0
    in_flight_refusals: int = 0


@dataclass(frozen=True, slots=True)
class DrainNotice:
    """The replica is going away."""

    within_seconds: float
    reason: str


class VerifierStream:
    """A stream after its handshake. Build it with `handshake`."""

    def __init__(self, frames: FrameStream, target: Target, *, batches: bool = False) -> None:
        self.target = target
        self._batches = batches
        self.counters = StreamCounters()
        self.ended: StreamEnded | None = None
        self.drain: DrainNotice | None = None
        self.unsettled = asyncio.Event()
        """Set once the stream ends or drains: it is no longer a place for new rounds."""
        self._frames = frames
        self._exchanges: dict[int, _Exchange] = {}
        self.runs = Runs()
        self._idle = asyncio.Event()
        self._idle.set()
        self._outbox: asyncio.Queue[pb.ClientFrame] = asyncio.Queue(MAX_QUEUED_FRAMES)
        self._last_wire_id = 0
        self._heard_at = time.monotonic()
        self._tasks = (
            asyncio.create_task(self._read(), name="sled-link-read"),
            asyncio.create_task(self._write(), name="sled-link-write"),
        )

    def new_wire_id(self) -> int:
        """A sequence number never used on this stream; reopening under a new one makes late answers harmless."""
        self._last_wire_id += 1
        return self._last_wire_id

    def post(self, frame: pb.ClientFrame) -> int:
        """Queue a frame without waiting; returns its size in bytes. Frames to an ended stream vanish."""
        if self.ended is None:
            try:
                self._outbox.put_nowait(frame)
            except asyncio.QueueFull:
                self.end(StreamEnded("unavailable", "the verifier does not read what is sent"))
        return frame.ByteSize()

    def forget(self, wire_id: int) -> None:
        """Nobody will ask for this sequence's answers any more."""
        self.runs.drop(wire_id)
        self._note_idle()

    def offer(
        self, wire_id: int, committed_length: int, follows_token: int, frame: pb.ClientFrame
    ) -> bool:
        """Send a draft ahead of the verdict that is waited for; False when none is."""
        waiting = self._exchanges.get(wire_id)
        if self.ended is not None or waiting is None or waiting.answer.done():
            return False
        self.runs.offered(wire_id, committed_length, follows_token)
        self.post(frame)
        return True

    async def exchange(
        self,
        wire_id: int,
        committed_length: int,
        frames: Sequence[pb.ClientFrame],
        timeout_seconds: float,
    ) -> Answer:
        """Send frames of one sequence and wait for its verdict or refusal; one that came unasked is there at once.

        Raises:
            StreamEnded: the stream ended before an answer.
            AnswerLate: no answer in time.
        """
        if self.ended is not None:
            raise self.ended.again()
        kept = self.runs.take(wire_id, committed_length)
        if kept is not None:
            return Answer(kept[0], 0, kept[1])
        waiting = _Exchange(committed_length, asyncio.get_running_loop().create_future())
        self._exchanges[wire_id] = waiting
        self._idle.clear()
        sent_at = time.monotonic()
        try:
            uplink_bytes = sum(self.post(frame) for frame in frames)
            # wait_for of Python 3.11 can swallow a cancellation that meets the result.
            async with asyncio.timeout(timeout_seconds):
                message = await waiting.answer
        except TimeoutError:
            # Asked for the next time, whatever was announced.
            self.runs.drop(wire_id)
            raise AnswerLate(stream_alive=self._heard_at >= sent_at) from None
        finally:
            self._exchanges.pop(wire_id, None)
            self._note_idle()
        return Answer(message, uplink_bytes, waiting.downlink_bytes)

    def end(self, reason: StreamEnded) -> None:
        """Declare the stream over: everybody who waits gets `reason`. The first reason counts."""
        if self.ended is not None:
            return
        self.ended = reason
        self.unsettled.set()
        self.runs.clear()
        for waiting in self._exchanges.values():
            if not waiting.answer.done():
                waiting.answer.set_exception(reason.again())
        for task in self._tasks:
            task.cancel()

    def drained(self, reason: str) -> None:
        """A round was told that the replica goes away; treat it as a Drain that the stream may have missed."""
        if self.drain is None:
            self.drain = DrainNotice(0.0, reason)
            self.unsettled.set()

    async def settle(self, timeout_seconds: float) -> None:
        """Wait until no exchange is under way, the stream has ended, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._idle.wait()

    async def close(self, flush_seconds: float = 0.0) -> None:
        """Send what is queued within `flush_seconds`, then end the stream and its tasks."""
        if self.ended is None and flush_seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(flush_seconds):
                    await self._outbox.join()
        self.end(StreamEnded(_CLOSED, "the device closed the stream"))
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._frames.close()

    async def _write(self) -> None:
        following: pb.ClientFrame | None = None
        while True:
            frame, following = following or await self._outbox.get(), None
            drafts = [frame.draft] if self._batches and frame.HasField("draft") else []
            while drafts and len(drafts) < MAX_FRAME_ROUNDS and not self._outbox.empty():
                following = self._outbox.get_nowait()
                if not following.HasField("draft"):
                    break
                drafts.append(following.draft)
                following = None
            if len(drafts) > 1:
                frame = pb.ClientFrame(drafts=pb.Drafts(drafts=drafts))
            try:
                await self._frames.send(frame)
            except StreamEnded as reason:
                self.end(reason)
            finally:
                for _ in range(max(1, len(drafts))):
                    self._outbox.task_done()

    async def _read(self) -> None:
        while True:
            try:
                frame = await self._frames.receive()
            except StreamEnded as reason:
                self.end(reason)
                return
            self._heard_at = time.monotonic()
            self._deliver(frame)

    def _deliver(self, frame: pb.ServerFrame) -> None:
        size = frame.ByteSize()
        kind = frame.WhichOneof("frame")
        if kind == "verdict":
            self._answer(frame.verdict, size)
        elif kind == "verdicts" and self._batches:
            for verdict in frame.verdicts.verdicts:
                self._answer(verdict, verdict.ByteSize())
        elif kind == "refused" and frame.refused.sequence:
            self._answer(frame.refused, size)
        elif kind == "refused":
            self.end(stream_refusal(frame.refused))
        elif kind == "opened":
            waiting = self._exchanges.get(frame.opened.sequence)
            if waiting is not None:
                waiting.downlink_bytes += size
        elif kind == "drain":
            self.drain = DrainNotice(frame.drain.within_ms / 1000, frame.drain.reason)
            self.unsettled.set()
        else:
            self.end(StreamEnded("malformed", "the verifier sent a frame out of order"))

    def _answer(self, message: pb.Verdict | pb.Refused, size: int) -> None:
        waiting = self._exchanges.get(message.sequence)
        if waiting is None or waiting.answer.done():
            self._keep(message, size)
            return
        waiting.downlink_bytes += size
        if isinstance(message, pb.Refused):
            if message.reason == pb.REFUSAL_REASON_ROUND_IN_FLIGHT:
                # The verdict on the first copy of this draft is still to come.
                self.counters.in_flight_refusals += 1
                return
        elif message.committed_length != waiting.committed_length:
            self.counters.stray_answers += 1
            return
        self.runs.begin(message)
        waiting.answer.set_result(message)

    def _keep(self, message: pb.Verdict | pb.Refused, size: int) -> None:
        """An answer that nobody waits for: of a run, or too late."""
        try:
            if not self.runs.keep(message, size):
                self.counters.stray_answers += 1
        except RunTooLong:
            self.end(
                StreamEnded("malformed", "the verifier goes on for longer than it was allowed")
            )
        self._note_idle()

    def _note_idle(self) -> None:
        if not self._exchanges and not self.runs.under_way:
            self._idle.set()


async def handshake(frames: FrameStream, facts: DeviceFacts, endpoint: str) -> VerifierStream:
    """Say Hello on a fresh stream and wait for Welcome; the caller bounds the time and closes `frames` on failure.

    Raises:
        StreamEnded: refused, ended, an answer out of order, or a vocabulary that is not the device's.
    """
    await frames.send(hello_frame(facts))
    frame = await frames.receive()
    kind = frame.WhichOneof("frame")
    if kind == "refused":
        raise stream_refusal(frame.refused)
    if kind != "welcome":
        raise StreamEnded("malformed", f"expected Welcome, the verifier sent {kind or 'nothing'}")
    model = frame.welcome.model
    ours = facts.tokenizer_fingerprint
    if ours and model.tokenizer_fingerprint and ours != model.tokenizer_fingerprint:
        raise StreamEnded(
            "tokenizer_mismatch",
            f"the vocabulary of this device is not that of the target model {model.name}: "
            "use a draft model of the same family, or an n-gram drafter",
        )
    target = target_of(frame.welcome, endpoint)
    return VerifierStream(frames, target, batches=frame.welcome.batches)


def stream_refusal(refused: pb.Refused) -> StreamEnded:
    """A refusal of the stream as a whole."""
    return StreamEnded(reason_name(refused.reason), refused.message, refused.retry_after_ms / 1000)
