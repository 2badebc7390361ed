"""The gRPC face of the verifier: reads frames, writes frames, maps refusals to statuses. Must not
hold any policy.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from sled_protocol.limits import MAX_DEADLINE_MS, TOKENIZER_CHUNK_BYTES
from sled_protocol.v1 import verifier_pb2 as pb
from sled_protocol.v1 import verifier_pb2_grpc as pb_grpc
from sled_verifier import frames
from sled_verifier.auth import Grant
from sled_verifier.refusal import Reason, Refusal
from sled_verifier.service import Service
from sled_verifier.stream import DeviceStream

HELLO_SECONDS = 10.0
"""A stream that says nothing for so long is closed."""

SETTLE_SECONDS = MAX_DEADLINE_MS / 1000
"""A stream that ends gets so long for its rounds in flight and for a device that reads slowly."""

MOVE_SECONDS = 10.0
"""A device that is asked to connect again is served here for so long meanwhile."""

_STATUSES = {
    Reason.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.MALFORMED: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.DRAINING: grpc.StatusCode.UNAVAILABLE,
    Reason.TOO_MANY_SEQUENCES: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.INTERNAL: grpc.StatusCode.INTERNAL,
}
"""Status with which a refused stream or call ends; all other reasons are FAILED_PRECONDITION."""


def status_of(reason: Reason) -> grpc.StatusCode:
    """The one place where refusals become gRPC statuses."""
    return _STATUSES.get(reason, grpc.StatusCode.FAILED_PRECONDITION)


class VerifierServicer(pb_grpc.VerifierServicer):
    """`sled.v1.Verifier` over a `Service`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def Verify(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # frames are written through the context
        """The decoding stream."""
        self._service.stream_began()
        device_id = ""
        try:
            grant = self._service.door.authenticate(context.invocation_metadata())
            stream = await self._greet(grant, context)
            device_id = stream.device_id
            try:
                await self._converse(stream, context)
            finally:
                stream.finish()
        except Refusal as refusal:
            self._service.note_refusal(refusal, device_id, 0, loud=True)
            await context.write(frames.refused_frame(0, refusal))
            context.set_code(status_of(refusal.reason))
            context.set_details(refusal.message)
        finally:
            self._service.stream_ended()

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.Model:
        """What is served."""
        await self._authenticate(context)
        return self._service.model

    async def GetTokenizer(
        self, request: pb.GetTokenizerRequest, context: Any
    ) -> AsyncIterator[pb.TokenizerChunk]:
        """The vocabulary as a GGUF file, in pieces."""
        await self._authenticate(context)
        data = await self._service.backend.tokenizer_gguf()
        for start in range(0, len(data), TOKENIZER_CHUNK_BYTES):
            chunk = data[start : start + TOKENIZER_CHUNK_BYTES]
            yield pb.TokenizerChunk(data=chunk, total_bytes=len(data))

    async def GetStats(self, request: pb.GetStatsRequest, context: Any) -> pb.Stats:
        """Load and totals."""
        await self._authenticate(context)
        return self._service.stats_message()

    async def _greet(self, grant: Grant, context: Any) -> DeviceStream:
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                first = await _read(context)
        except TimeoutError:
            raise Refusal(
                Reason.MALFORMED, f"no Hello within {HELLO_SECONDS:.0f} seconds"
            ) from None
        if first is grpc.aio.EOF:
            raise Refusal(Reason.MALFORMED, "the stream ended before Hello")
        self._service.check_not_draining()
        greeting = frames.read_hello(first, self._service.backend.info)
        grant.check_device(greeting.device_id)
        stream = DeviceStream(self._service, grant, greeting)
        welcome = pb.Welcome(
            revision=greeting.revision,
            model=self._service.model,
            replica=self._service.replica,
            batches=greeting.batches,
            takes_ahead=True,
        )
        try:
            await context.write(pb.ServerFrame(welcome=welcome))
        except BaseException:
            stream.finish()
            raise
        return stream

    async def _converse(self, stream: DeviceStream, context: Any) -> None:
        """Read, write, and watch for a drain or a departure, until one of them ends the stream."""
        reader = asyncio.create_task(_read_frames(stream, context))
        writer = asyncio.create_task(_write_frames(stream, context))
        drain = asyncio.create_task(self._service.drain_started.wait())
        departure = asyncio.create_task(_see_off(stream))
        tasks = (reader, writer, drain, departure)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if drain.done() and not reader.done() and self._service.draining is not None:
                await _either(stream.send(self._service.draining.frame()), writer)
            # Rounds in flight are answered even when the device sends no more, is refused, or is
            # told to go.
            with suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_SECONDS):
                    await _either(stream.settle(), writer)
            for finished in (writer, reader):
                if finished.done():
                    finished.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for task in (reader, writer):
                if not task.cancelled():
                    task.exception()

    async def _authenticate(self, context: Any) -> None:
        try:
            self._service.door.authenticate(context.invocation_metadata())
        except Refusal as refusal:
            self._service.note_refusal(refusal, "", 0, loud=True)
            await _abort(context, refusal)


async def _read(context: Any) -> Any:
    try:
        return await context.read()
    except DecodeError:
        raise Refusal(Reason.MALFORMED, "the bytes received are not a ClientFrame") from None


async def _read_frames(stream: DeviceStream, context: Any) -> None:
    while (frame := await _read(context)) is not grpc.aio.EOF:
        await stream.handle(frame)


async def _write_frames(stream: DeviceStream, context: Any) -> None:
    while True:
        frame = await stream.next_frame()
        await context.write(frame)
        stream.sent()


async def _see_off(stream: DeviceStream) -> None:
    """Ends when a device that was asked to go has had the time to."""
    await stream.departure.asked.wait()
    notice = pb.Drain(within_ms=round(MOVE_SECONDS * 1000), reason=stream.departure.reason)
    await stream.send(pb.ServerFrame(drain=notice))
    await asyncio.sleep(MOVE_SECONDS)


async def _either(work: Any, writer: asyncio.Task[None]) -> None:
    """Do `work`, or stop when nothing can be written to the device any more."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task, writer), return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def _abort(context: Any, refusal: Refusal) -> NoReturn:
    await context.abort(status_of(refusal.reason), refusal.message)
    raise refusal
