"""Several rounds of one device in one frame: only with a verifier that reads them, and every round gets its own answer."""

from __future__ import annotations

import asyncio

import pytest

from sled_edge.link_frames import DeviceFacts
from sled_edge.link_stream import VerifierStream, handshake
from sled_edge.link_transport import StreamEnded
from sled_protocol.v1 import verifier_pb2 as pb


class Verifier:
    """The far side of one stream: answers every draft once `go` is set."""

    def __init__(self, batches: bool) -> None:
        self.batches = batches
        self.received: list[pb.ClientFrame] = []
        self.go = asyncio.Event()
        self._answers: asyncio.Queue[pb.ServerFrame] = asyncio.Queue()
        self._answers.put_nowait(pb.ServerFrame(welcome=pb.Welcome(revision=1, batches=batches)))

    async def send(self, frame: pb.ClientFrame) -> None:
        self.received.append(frame)
        await self.go.wait()
        drafts = list(frame.drafts.drafts) or ([frame.draft] if frame.HasField("draft") else [])
        verdicts = [pb.Verdict(sequence=d.sequence, next_token=d.sequence) for d in drafts]
        if len(verdicts) > 1:
            self._answers.put_nowait(pb.ServerFrame(verdicts=pb.Verdicts(verdicts=verdicts)))
        elif verdicts:
            self._answers.put_nowait(pb.ServerFrame(verdict=verdicts[0]))

    async def receive(self) -> pb.ServerFrame:
        return await self._answers.get()

    async def close(self) -> None:
        return

    def answer(self, frame: pb.ServerFrame) -> None:
        self._answers.put_nowait(frame)


async def stream_to(verifier: Verifier) -> VerifierStream:
    verifier.go.set()
    stream = await handshake(verifier, DeviceFacts("d"), "there")
    verifier.go.clear()
    return stream


def draft_of(number: int) -> list[pb.ClientFrame]:
    return [pb.ClientFrame(draft=pb.Draft(sequence=number))]


async def rounds(stream: VerifierStream, verifier: Verifier, count: int) -> list[int]:
    """Send so many drafts while the first is on its way; the tokens that came back."""
    tasks = [
        asyncio.create_task(stream.exchange(number, 0, draft_of(number), 10.0))
        for number in range(1, count + 1)
    ]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    verifier.go.set()
    answers = [(await task).message for task in tasks]
    return [answer.next_token for answer in answers if isinstance(answer, pb.Verdict)]


@pytest.mark.parametrize("batches", [True, False])
async def test_drafts_that_wait_together_travel_together_where_that_is_read(batches: bool) -> None:
    verifier = Verifier(batches)
    stream = await stream_to(verifier)
    assert verifier.received[0].hello.batches
    assert await rounds(stream, verifier, 5) == [1, 2, 3, 4, 5]
    frames = verifier.received[1:]
    assert len(frames) == (5 if not batches else len(frames))
    assert any(frame.HasField("drafts") for frame in frames) is batches
    await stream.close(1.0)


async def test_other_frames_keep_their_order() -> None:
    verifier = Verifier(True)
    stream = await stream_to(verifier)
    for frame in (
        *draft_of(1),
        *draft_of(2),
        pb.ClientFrame(close=pb.Close(sequence=3)),
        *draft_of(4),
    ):
        stream.post(frame)
    verifier.go.set()
    await stream.close(1.0)
    kinds = [frame.WhichOneof("frame") for frame in verifier.received[1:]]
    assert kinds == ["drafts", "close", "draft"]


async def test_verdicts_that_nobody_agreed_on_end_the_stream() -> None:
    verifier = Verifier(False)
    stream = await stream_to(verifier)
    verifier.answer(pb.ServerFrame(verdicts=pb.Verdicts(verdicts=[pb.Verdict(sequence=1)])))
    with pytest.raises(StreamEnded, match="out of order"):
        await stream.exchange(1, 0, (), 10.0)
    await stream.close()
