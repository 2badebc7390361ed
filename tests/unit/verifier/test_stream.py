"""One device's stream without gRPC: its outbox is bounded, and a device that does not read is not
read from.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from sled_protocol.limits import MAX_FRAME_ROUNDS
from sled_protocol.v1 import verifier_pb2 as pb
from sled_testkit.verifier_device import close_frame, draft_frame, open_frame
from sled_verifier.auth import Grant, OpenDoor
from sled_verifier.batched import BatchedBackend
from sled_verifier.engine.fake import FakeEngine, ToyModel
from sled_verifier.frames import Greeting
from sled_verifier.limits import Limits
from sled_verifier.metrics import Metrics
from sled_verifier.refusal import Refusal
from sled_verifier.service import Service
from sled_verifier.stream import MAX_REFUSALS_IN_A_ROW, OUTBOX_FRAMES, DeviceStream
from sled_verifier.tally import DraftModelKey

TARGET = ToyModel(vocab_size=64)
PROMPT = [1, 2, 3]


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    limits = Limits()
    async with BatchedBackend(FakeEngine(model=TARGET), limits) as backend:
        yield Service(
            backend, limits, OpenDoor(), Metrics("toy"), replica="r", engine="batched/fake"
        )


def stream_of(service: Service) -> DeviceStream:
    return DeviceStream(service, Grant(b"", None), Greeting(1, "pi-1", "pi5", "tiny"))


async def answer(stream: DeviceStream) -> pb.ServerFrame:
    frame = await stream.next_frame()
    stream.sent()
    return frame


async def test_open_draft_close(service: Service) -> None:
    stream = stream_of(service)
    await stream.handle(open_frame(1, PROMPT))
    assert (await answer(stream)).opened.sequence == 1
    await stream.handle(draft_frame(1, PROMPT, ()))
    verdict = (await answer(stream)).verdict
    assert verdict.next_token == TARGET.greedy(PROMPT, 1)[0]
    await stream.settle()
    await stream.handle(close_frame(1))
    assert service.backend.stats().load.active_sequences == 0
    stream.finish()
    assert service.devices.connected == 0


async def test_a_full_outbox_stops_the_reading(service: Service) -> None:
    stream = stream_of(service)
    unknown = draft_frame(7, PROMPT, ())

    async def flood() -> None:
        while True:
            await stream.handle(unknown)

    flooding = asyncio.create_task(flood())
    for _ in range(3):
        # However long the device reads nothing, nothing more is taken in.
        await asyncio.wait((flooding,), timeout=0.01)
        assert service.tally.refusals.total() == OUTBOX_FRAMES + 1
    await answer(stream)
    await asyncio.wait((flooding,), timeout=0.01)
    assert service.tally.refusals.total() == OUTBOX_FRAMES + 2
    flooding.cancel()
    await asyncio.wait((flooding,))
    stream.finish()


async def test_finish_gives_everything_back(service: Service) -> None:
    stream = stream_of(service)
    for sequence in (1, 2, 3):
        await stream.handle(open_frame(sequence, [sequence] * 500))
        await stream.handle(draft_frame(sequence, [sequence] * 500, ()))
    stream.finish()
    stats = service.backend.stats()
    assert stats.load.active_sequences == stats.load.queue_depth == 0
    assert service.devices.connected == 0
    assert not service.tally.draft_models[DraftModelKey("tiny", "pi5")].devices


async def test_a_defect_of_the_backend_is_answered_too(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(key: int, draft: object) -> None:
        raise ZeroDivisionError

    stream = stream_of(service)
    await stream.handle(open_frame(1, PROMPT))
    await answer(stream)
    monkeypatch.setattr(service.backend, "verify", broken)
    await stream.handle(draft_frame(1, PROMPT, ()))
    refused = (await answer(stream)).refused
    assert (refused.reason, refused.sequence) == (pb.REFUSAL_REASON_INTERNAL, 1)
    assert "a round failed" in caplog.text
    stream.finish()


async def test_a_refused_open_does_not_count_against_the_device(service: Service) -> None:
    stream = stream_of(service)
    for sequence in range(1, 20):
        await stream.handle(open_frame(sequence, [1] * 5000))
        refused = (await answer(stream)).refused
        assert refused.reason == pb.REFUSAL_REASON_PROMPT_TOO_LONG
    await stream.handle(open_frame(1, PROMPT))
    assert (await answer(stream)).WhichOneof("frame") == "opened"
    stream.finish()


# ---- several rounds in one frame


async def batching_stream(service: Service, sequences: int) -> DeviceStream:
    greeting = Greeting(1, "pi-1", "pi5", "tiny", batches=True)
    stream = DeviceStream(service, Grant(b"", None), greeting)
    for number in range(1, sequences + 1):
        await stream.handle(open_frame(number, [number]))
        assert (await answer(stream)).opened.sequence == number
    return stream


def drafts_frame(*numbers: int) -> pb.ClientFrame:
    drafts = [draft_frame(number, [number], ()).draft for number in numbers]
    return pb.ClientFrame(drafts=pb.Drafts(drafts=drafts))


async def test_drafts_in_one_frame_get_verdicts_in_as_few(service: Service) -> None:
    stream = await batching_stream(service, 4)
    await stream.handle(drafts_frame(1, 2, 3, 4))
    while stream._rounds:
        await asyncio.wait(list(stream._rounds.values()))
    frame = await answer(stream)
    texts = {v.sequence: v.next_token for v in frame.verdicts.verdicts}
    assert texts == {n: TARGET.greedy([n], 1)[0] for n in (1, 2, 3, 4)}
    await stream.settle()
    stream.finish()


async def test_other_frames_keep_their_place_among_verdicts(service: Service) -> None:
    stream = await batching_stream(service, 3)
    await stream.handle(drafts_frame(1, 2))
    while stream._rounds:
        await asyncio.wait(list(stream._rounds.values()))
    await stream.handle(drafts_frame(9))
    await stream.handle(drafts_frame(3))
    while stream._rounds:
        await asyncio.wait(list(stream._rounds.values()))
    kinds = [(await answer(stream)).WhichOneof("frame") for _ in range(3)]
    assert kinds == ["verdicts", "refused", "verdict"]
    await stream.settle()
    stream.finish()


async def test_a_device_that_did_not_ask_gets_and_sends_single_frames(service: Service) -> None:
    stream = stream_of(service)
    await stream.handle(open_frame(1, PROMPT))
    await answer(stream)
    with pytest.raises(Refusal, match="a kind that this revision lacks"):
        await stream.handle(drafts_frame(1))
    stream.finish()


async def test_too_many_drafts_and_too_many_wrong_ones_end_the_stream(service: Service) -> None:
    stream = await batching_stream(service, 0)
    with pytest.raises(Refusal, match="allowed: 64"):
        await stream.handle(drafts_frame(*[1] * (MAX_FRAME_ROUNDS + 1)))

    async def read() -> None:
        while True:
            await answer(stream)

    reading = asyncio.create_task(read())
    for _ in range(MAX_REFUSALS_IN_A_ROW // MAX_FRAME_ROUNDS):
        await stream.handle(drafts_frame(*[1] * MAX_FRAME_ROUNDS))
    with pytest.raises(Refusal, match="refusals in a row"):
        await stream.handle(drafts_frame(*[1] * MAX_FRAME_ROUNDS))
    assert service.tally.refusals.total() == MAX_REFUSALS_IN_A_ROW + 1
    reading.cancel()
    await asyncio.wait((reading,))
    stream.finish()
