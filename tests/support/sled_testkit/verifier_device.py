"""A device as the wire sees it: one stream to a verifier, drafts from the toy model, and its own
idea of what must come back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from sled_protocol.channel import CLIENT_OPTIONS
from sled_protocol.distribution import DraftDistribution, pack
from sled_protocol.prefix import prefix_hash
from sled_protocol.v1 import verifier_pb2 as pb
from sled_protocol.v1 import verifier_pb2_grpc as pb_grpc
from sled_speculation.sampling import SamplingParams
from sled_speculation.wire import to_wire
from sled_verifier.engine.fake import ToyModel

GREEDY = SamplingParams()


class RefusedByVerifier(Exception):
    """The verifier said no; `refused` is its frame."""

    def __init__(self, refused: pb.Refused) -> None:
        super().__init__(f"{pb.RefusalReason.Name(refused.reason)}: {refused.message}")
        self.refused = refused
        self.reason = refused.reason


def hello_frame(device_id: str = "device-1", **fields: Any) -> pb.ClientFrame:
    values: dict[str, Any] = {"min_revision": 1, "max_revision": 1, "device_id": device_id}
    return pb.ClientFrame(hello=pb.Hello(**{**values, **fields}))


def open_frame(
    sequence: int,
    prompt: Sequence[int],
    committed: Sequence[int] = (),
    sampling: SamplingParams = GREEDY,
    model: str = "",
) -> pb.ClientFrame:
    message = pb.Open(
        sequence=sequence,
        prompt_tokens=prompt,
        committed_tokens=committed,
        sampling=to_wire(sampling),
        model=model,
    )
    return pb.ClientFrame(open=message)


def draft_frame(
    sequence: int,
    prompt: Sequence[int],
    committed: Sequence[int],
    draft: Sequence[int] = (),
    distributions: Sequence[DraftDistribution] = (),
    **fields: Any,
) -> pb.ClientFrame:
    values: dict[str, Any] = {
        "sequence": sequence,
        "committed_length": len(committed),
        "prefix_hash": prefix_hash([*prompt, *committed]),
        "draft_tokens": draft,
        "draft_probs": pack(distributions),
    }
    return pb.ClientFrame(draft=pb.Draft(**{**values, **fields}))


def close_frame(sequence: int) -> pb.ClientFrame:
    return pb.ClientFrame(close=pb.Close(sequence=sequence))


class Device:
    """One open stream. Frames of the verifier are sorted into one queue a sequence; `control` gets
    those of the stream.
    """

    def __init__(self, call: Any) -> None:
        self.call = call
        self.welcome: pb.Welcome | None = None
        self.control: asyncio.Queue[pb.ServerFrame | None] = asyncio.Queue()
        self._queues: dict[int, asyncio.Queue[pb.ServerFrame | None]] = {}
        self._reader: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()

    def queue(self, sequence: int) -> asyncio.Queue[pb.ServerFrame | None]:
        return self._queues.setdefault(sequence, asyncio.Queue())

    async def send(self, frame: pb.ClientFrame) -> None:
        """Send one frame.

        Raises:
            ConnectionError: the stream has ended.
        """
        # gRPC allows one write at a time.
        async with self._writing:
            try:
                await self.call.write(frame)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
                raise ConnectionError("the stream has ended") from error

    async def greet(self, hello: pb.ClientFrame | None = None) -> pb.Welcome:
        await self.send(hello or hello_frame())
        self._reader = asyncio.create_task(self._read())
        frame = await self.control.get()
        if frame is None:
            raise ConnectionError(await self.call.details())
        if frame.HasField("refused"):
            raise RefusedByVerifier(frame.refused)
        self.welcome = frame.welcome
        return frame.welcome

    async def answer(self, sequence: int) -> pb.ServerFrame:
        """The next frame about a sequence (0 = the stream).

        Raises:
            RefusedByVerifier: it is a refusal.
            ConnectionError: the stream ended.
        """
        queue = self.queue(sequence) if sequence else self.control
        frame = await queue.get()
        if frame is None:
            queue.put_nowait(None)
            raise ConnectionError("the stream has ended")
        if frame.HasField("refused"):
            raise RefusedByVerifier(frame.refused)
        return frame

    async def open(
        self,
        sequence: int,
        prompt: Sequence[int],
        committed: Sequence[int] = (),
        sampling: SamplingParams = GREEDY,
    ) -> pb.Opened:
        await self.send(open_frame(sequence, prompt, committed, sampling))
        return (await self.answer(sequence)).opened

    async def round(
        self,
        sequence: int,
        prompt: Sequence[int],
        committed: Sequence[int],
        draft: Sequence[int] = (),
        distributions: Sequence[DraftDistribution] = (),
        **fields: Any,
    ) -> pb.Verdict:
        frame = draft_frame(sequence, prompt, committed, draft, distributions, **fields)
        await self.send(frame)
        return (await self.answer(sequence)).verdict

    async def end(self) -> None:
        """Hang up politely: no more frames, then wait for the end of the stream."""
        await self.call.done_writing()
        if self._reader is not None:
            await self._reader

    async def _read(self) -> None:
        try:
            while (frame := await self.call.read()) is not grpc.aio.EOF:
                kind = frame.WhichOneof("frame")
                sequence = getattr(getattr(frame, kind), "sequence", 0)
                (self.queue(sequence) if sequence else self.control).put_nowait(frame)
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            pass
        finally:
            for queue in (self.control, *self._queues.values()):
                queue.put_nowait(None)


@asynccontextmanager
async def connected(
    address: str, *, token: str | None = None, credentials: grpc.ChannelCredentials | None = None
) -> AsyncIterator[Device]:
    """A stream that has said nothing yet; cancelled at the end."""
    if credentials is None:
        channel = grpc.aio.insecure_channel(address, options=CLIENT_OPTIONS)
    else:
        channel = grpc.aio.secure_channel(address, credentials, options=CLIENT_OPTIONS)
    async with channel:
        metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        device = Device(pb_grpc.VerifierStub(channel).Verify(metadata=metadata))
        try:
            yield device
        finally:
            device.call.cancel()
            if device._reader is not None:
                await asyncio.wait((device._reader,))


@asynccontextmanager
async def greeted(
    address: str, device_id: str = "device-1", **options: Any
) -> AsyncIterator[Device]:
    """A stream after its handshake."""
    async with connected(address, **options) as device:
        await device.greet(hello_frame(device_id))
        yield device


@dataclass(slots=True)
class GreedyText:
    """One greedy generation against the toy model: drafts that are right with probability `skill`,
    each token on its own.
    """

    model: ToyModel
    prompt: Sequence[int]
    skill: float = 0.8
    seed: int = 0
    output: list[int] = field(default_factory=list)
    rounds: int = 0

    def draft(self, length: int) -> list[int]:
        rng = random.Random(f"{self.seed}/{len(self.output)}")
        right = self.model.greedy([*self.prompt, *self.output], length)
        wrong = self.model.vocab_size
        return [
            t if rng.random() < self.skill else (t + 1 + rng.randrange(wrong - 1)) % wrong
            for t in right
        ]

    async def run(
        self, device: Device, sequence: int, tokens: int, draft_length: int, *, fresh: bool = True
    ) -> list[int]:
        """Generate until `tokens` are there; opens the sequence (resuming) first and closes it
        last.
        """
        if fresh:
            await device.open(sequence, self.prompt, self.output)
        while len(self.output) < tokens:
            draft = self.draft(min(draft_length, tokens - len(self.output) - 1))
            verdict = await device.round(sequence, self.prompt, self.output, draft)
            self.output += [*draft[: verdict.accepted], verdict.next_token]
            self.rounds += 1
        await device.send(close_frame(sequence))
        return self.output
