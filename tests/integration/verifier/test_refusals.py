"""Every typed refusal is provoked over real gRPC, while a bystander on the same server gets its exact text."""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from sled_testkit.verifier import running_server
from sled_testkit.verifier_device import (
    GreedyText,
    RefusedByVerifier,
    connected,
    draft_frame,
    greeted,
    hello_frame,
    open_frame,
)

from sled_testkit.verifier_faults import GatedEngine, until
from sled_protocol.distribution import DraftDistribution, pack
from sled_protocol.v1 import verifier_pb2 as pb
from sled_verifier.engine.base import EngineError, StepItem
from sled_verifier.engine.fake import FakeEngine, ToyModel
from sled_verifier.refusal import Reason
from sled_verifier.server import VerifierServer

TARGET = ToyModel(vocab_size=100, seed=5)
PROMPT = [1, 2, 3, 4]
LIMITS = {"maxSequencesPerDevice": 3, "maxSequences": 8, "maxDraftTokens": 6, "maxQueue": 64}


@asynccontextmanager
async def server_with_bystander(
    engine: FakeEngine | None = None, **overrides: Any
) -> AsyncIterator[VerifierServer]:
    """A server on which another device generates throughout; at the end its text must be the target's own."""
    engine = engine or FakeEngine(model=TARGET, context_tokens=256)
    settings = {"batching": LIMITS, **overrides}
    async with running_server(engine=engine, **settings) as server:
        async with greeted(server.address, "bystander") as device:
            text = GreedyText(TARGET, [9] * 5)
            stop = asyncio.Event()

            async def generate() -> None:
                number = 0
                while not stop.is_set() or number == 0:
                    number += 1
                    text.output.clear()
                    await text.run(device, number, 40, 4)
                    assert text.output == TARGET.greedy(text.prompt, 40)

            running = asyncio.create_task(generate())
            try:
                yield server
            finally:
                stop.set()
            await running


async def refusal_of(awaitable: Any) -> pb.Refused:
    with pytest.raises(RefusedByVerifier) as caught:
        await awaitable
    refused = caught.value.refused
    assert refused.message
    assert len(refused.message) < 300
    return refused


def reason(name: Reason) -> int:
    return name.value


def counted(server: VerifierServer, name: Reason) -> int:
    value = server.metrics.registry.get_sample_value(
        "sled_refusals_total", {"model_name": "toy", "reason": name.label}
    )
    return int(value or 0)


# ---- the stream as a whole


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (open_frame(1, PROMPT), Reason.MALFORMED),
        (draft_frame(1, PROMPT, ()), Reason.MALFORMED),
        (pb.ClientFrame(), Reason.MALFORMED),
        (hello_frame(""), Reason.MALFORMED),
        (hello_frame("x" * 254), Reason.MALFORMED),
        (hello_frame("a\nb"), Reason.MALFORMED),
        (hello_frame("d", draft_model="x" * 300), Reason.MALFORMED),
        (hello_frame("d", min_revision=2, max_revision=9), Reason.UNSUPPORTED_REVISION),
        (hello_frame("d", min_revision=0, max_revision=0), Reason.UNSUPPORTED_REVISION),
        (hello_frame("d", tokenizer_fingerprint=b"other"), Reason.TOKENIZER_MISMATCH),
    ],
)
async def test_a_stream_that_begins_wrong_is_refused_and_closed(
    first: pb.ClientFrame, expected: Reason
) -> None:
    async with server_with_bystander() as server, connected(server.address) as device:
        refused = await refusal_of(device.greet(first))
        assert (refused.reason, refused.sequence) == (reason(expected), 0)
        assert await device.call.code() != grpc.StatusCode.OK
        assert counted(server, expected) == 1


async def test_revisions_overlap_and_fingerprint_matches() -> None:
    async with server_with_bystander() as server, connected(server.address) as device:
        welcome = await device.greet(
            hello_frame(
                "d", max_revision=7, tokenizer_fingerprint=server.backend.info.tokenizer_fingerprint
            )
        )
        assert (welcome.revision, welcome.replica, welcome.model.name) == (1, "test-0", "toy")


@pytest.mark.parametrize("frame", [hello_frame(), pb.ClientFrame()])
async def test_a_frame_out_of_place_closes_the_stream(frame: pb.ClientFrame) -> None:
    async with server_with_bystander() as server, greeted(server.address) as device:
        await device.open(1, PROMPT)
        await device.send(frame)
        assert (await refusal_of(device.answer(0))).reason == reason(Reason.MALFORMED)
        assert await device.call.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert server.backend.stats().load.active_sequences <= 1


@asynccontextmanager
async def raw_stream(address: str) -> AsyncIterator[Any]:
    """A stream that sends any bytes of any size and checks nothing."""
    options = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield channel.stream_stream("/sled.v1.Verifier/Verify")()


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff\xff", b"\x0a\x05abc", b"\x00"])
@pytest.mark.parametrize("after_hello", [False, True])
async def test_bytes_that_are_no_frame_close_the_stream(garbage: bytes, after_hello: bool) -> None:
    async with server_with_bystander() as server, raw_stream(server.address) as call:
        if after_hello:
            await call.write(hello_frame().SerializeToString())
            await call.read()
        await call.write(garbage)
        refused = pb.ServerFrame.FromString(await call.read()).refused
        assert (refused.reason, refused.sequence) == (reason(Reason.MALFORMED), 0)
        assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT
        await streams_left(server, 1)


async def test_a_frame_above_the_size_limit_ends_the_stream_only() -> None:
    async with server_with_bystander() as server, raw_stream(server.address) as call:
        await call.write(hello_frame().SerializeToString())
        await call.read()
        await call.write(open_frame(1, [2**32 - 1] * 1_000_000).SerializeToString())
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()
        assert await call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        await streams_left(server, 1)


async def streams_left(server: VerifierServer, count: int) -> None:
    await until(lambda: server.service.open_streams == count)


# ---- Open


def open_with(**fields: Any) -> pb.ClientFrame:
    frame = open_frame(1, PROMPT)
    for name, value in fields.items():
        setattr(frame.open.sampling, name, value)
    return frame


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (open_frame(1, []), Reason.MALFORMED),
        (open_frame(1, [100]), Reason.MALFORMED),
        (open_frame(1, [1], [2**32 - 1]), Reason.MALFORMED),
        (open_frame(1, PROMPT, model="gpt-9"), Reason.UNKNOWN_MODEL),
        (open_frame(1, PROMPT, model="x" * 500), Reason.MALFORMED),
        (open_frame(1, [1] * 256), Reason.PROMPT_TOO_LONG),
        (open_frame(1, [1] * 200_000), Reason.PROMPT_TOO_LONG),
        (open_frame(1, [1] * 200, [1] * 56), Reason.CONTEXT_FULL),
        (open_frame(1, [1], [1] * 300_000), Reason.CONTEXT_FULL),
        (open_with(temperature=math.nan), Reason.INVALID_SAMPLING),
        (open_with(temperature=math.inf), Reason.INVALID_SAMPLING),
        (open_with(temperature=-1.0), Reason.INVALID_SAMPLING),
        (open_with(temperature=0.001), Reason.INVALID_SAMPLING),
        (open_with(top_k=2**32 - 1), Reason.INVALID_SAMPLING),
        (open_with(top_p=0.0), Reason.INVALID_SAMPLING),
        (open_with(top_p=math.nan), Reason.INVALID_SAMPLING),
        (open_with(min_p=1.0), Reason.INVALID_SAMPLING),
        (open_with(repetition_penalty=0.0), Reason.INVALID_SAMPLING),
        (open_with(repetition_penalty=math.nan), Reason.INVALID_SAMPLING),
        (open_with(mode=7), Reason.INVALID_SAMPLING),
    ],
)
async def test_an_open_that_cannot_be_served(frame: pb.ClientFrame, expected: Reason) -> None:
    async with server_with_bystander() as server, greeted(server.address) as device:
        await device.send(frame)
        refused = await refusal_of(device.answer(1))
        assert (refused.reason, refused.sequence) == (reason(expected), 1)
        assert counted(server, expected) == 1
        await device.open(1, PROMPT)
        await device.round(1, PROMPT, (), [1])


async def test_sequence_zero_cannot_be_opened() -> None:
    async with server_with_bystander() as server, greeted(server.address) as device:
        await device.send(open_frame(0, PROMPT))
        assert (await refusal_of(device.answer(0))).reason == reason(Reason.MALFORMED)


async def test_a_sequence_is_open_once() -> None:
    async with server_with_bystander() as server, greeted(server.address) as device:
        await device.open(1, PROMPT)
        refused = await refusal_of(device.open(1, PROMPT))
        assert refused.reason == reason(Reason.DUPLICATE_SEQUENCE)
        await device.round(1, PROMPT, (), [1])


async def test_a_device_has_a_limit_over_all_its_streams() -> None:
    async with (
        server_with_bystander() as server,
        greeted(server.address) as device,
        greeted(server.address) as second,
    ):
        for sequence in (1, 2):
            await device.open(sequence, PROMPT)
        await second.open(1, PROMPT)
        refused = await refusal_of(second.open(2, PROMPT))
        assert refused.reason == reason(Reason.TOO_MANY_SEQUENCES)
        assert refused.retry_after_ms > 0
        await device.send(pb.ClientFrame(close=pb.Close(sequence=1)))
        await device.open(3, PROMPT)
        async with greeted(server.address, "another") as other:
            await other.open(1, PROMPT)


async def test_a_device_has_a_limit_of_streams() -> None:
    async with server_with_bystander() as server:
        devices = [connected(server.address) for _ in range(8)]
        streams = [await device.__aenter__() for device in devices]
        for stream in streams:
            await stream.greet()
        async with connected(server.address) as ninth:
            refused = await refusal_of(ninth.greet())
            assert refused.reason == reason(Reason.TOO_MANY_SEQUENCES)
        for device in devices:
            await device.__aexit__(None, None, None)
        await streams_left(server, 1)
        async with greeted(server.address):
            pass


async def test_a_replica_has_a_limit() -> None:
    async with server_with_bystander() as server:
        opened, refusals = 0, []
        async with greeted(server.address, "a") as a, greeted(server.address, "b") as b:
            async with greeted(server.address, "c") as c:
                for device in (a, b, c):
                    for sequence in (1, 2, 3):
                        try:
                            await device.open(sequence, PROMPT)
                            opened += 1
                        except RefusedByVerifier as refused:
                            refusals.append(refused.reason)
        assert 7 <= opened <= 8
        assert set(refusals) == {reason(Reason.TOO_MANY_SEQUENCES)}


# ---- Draft


def sparse(*ids: int) -> DraftDistribution:
    return DraftDistribution(np.array(ids, np.uint32), np.full(len(ids), 200, np.uint8))


GOOD = pack([sparse(1, 7)])


@pytest.mark.parametrize(
    ("draft", "blob", "expected"),
    [
        ([100], b"", Reason.MALFORMED),
        ([2**32 - 1], b"", Reason.MALFORMED),
        ([1] * 7, b"", Reason.DRAFT_TOO_LONG),
        ([1] * 1000, b"", Reason.DRAFT_TOO_LONG),
        ([1], b"\xff", Reason.MALFORMED),
        ([1], b"\x00", Reason.MALFORMED),
        ([1], GOOD[:-1], Reason.MALFORMED),
        ([1], GOOD + b"\x00", Reason.MALFORMED),
        ([1, 1], GOOD, Reason.MALFORMED),
        ([], GOOD, Reason.MALFORMED),
        ([2], GOOD, Reason.MALFORMED),
        ([1], pack([sparse(1, 100)]), Reason.MALFORMED),
        ([1], bytes(range(256)) * 40, Reason.MALFORMED),
        ([1], b"\xff\xff\xff\xff\x7f" + b"\x01" * 60, Reason.MALFORMED),
        ([1], struct.pack("<ff", math.nan, 1.0), Reason.MALFORMED),
    ],
)
async def test_a_draft_that_cannot_be_judged(
    draft: Sequence[int], blob: bytes, expected: Reason
) -> None:
    async with server_with_bystander() as server, greeted(server.address) as device:
        await device.open(1, PROMPT)
        refused = await refusal_of(device.round(1, PROMPT, (), draft, draft_probs=blob))
        assert (refused.reason, refused.sequence) == (reason(expected), 1)
        assert counted(server, expected) == 1
        text = GreedyText(TARGET, PROMPT)
        assert await text.run(device, 1, 20, 4, fresh=False) == TARGET.greedy(PROMPT, 20)


async def test_a_draft_of_an_unknown_sequence() -> None:
    async with server_with_bystander() as server, greeted(server.address) as device:
        refused = await refusal_of(device.round(5, PROMPT, [1, 2], [1]))
        assert refused.reason == reason(Reason.UNKNOWN_SEQUENCE)
        assert (refused.sequence, refused.committed_length) == (5, 2)
        await device.open(5, PROMPT)
        await device.send(pb.ClientFrame(close=pb.Close(sequence=5)))
        refused = await refusal_of(device.round(5, PROMPT, (), [1]))
        assert refused.reason == reason(Reason.UNKNOWN_SEQUENCE)


async def test_a_context_that_is_full() -> None:
    prompt = [1] * 240
    text = GreedyText(TARGET, prompt)
    async with server_with_bystander() as server, greeted(server.address) as device:
        await text.run(device, 1, 12, 4)
        await device.open(2, prompt, text.output)
        committed = len(text.output)
        room = 256 - 240 - committed - 1
        refused = await refusal_of(device.round(2, prompt, text.output, [1] * (room + 1)))
        assert refused.reason == reason(Reason.CONTEXT_FULL)
        verdict = await device.round(2, prompt, text.output, [1] * room)
        assert verdict.next_token == TARGET.greedy([*prompt, *text.output], 1)[0]


async def test_a_second_draft_in_flight_and_a_full_queue_and_a_missed_deadline() -> None:
    engine = GatedEngine(model=TARGET, context_tokens=256)
    limits = {**LIMITS, "maxQueue": 2}
    async with running_server(engine=engine, batching=limits) as server:
        async with greeted(server.address) as device, greeted(server.address, "other") as other:
            for sequence in (1, 2, 3):
                await device.open(sequence, PROMPT)
            await other.open(1, PROMPT)
            await other.round(1, PROMPT, (), [])
            await device.round(3, PROMPT, (), [])
            first = TARGET.greedy(PROMPT, 1)
            engine.shut()
            await other.send(draft_frame(1, PROMPT, first, [1]))
            await until(engine.entered.is_set)
            await device.send(draft_frame(1, PROMPT, (), [1], deadline_ms=50))
            await device.send(draft_frame(1, PROMPT, (), [2]))
            refused = await refusal_of(device.answer(1))
            assert refused.reason == reason(Reason.ROUND_IN_FLIGHT)
            await device.send(draft_frame(2, PROMPT, (), [1]))
            await device.send(draft_frame(3, PROMPT, first, [1]))
            refused = await refusal_of(device.answer(3))
            assert refused.reason == reason(Reason.QUEUE_FULL)
            assert refused.retry_after_ms > 0
            refused = await refusal_of(device.answer(1))
            assert refused.reason == reason(Reason.DEADLINE_EXCEEDED)
            engine.gate.set()
            for stream, sequence, output in ((other, 1, first), (device, 2, [])):
                verdict = (await stream.answer(sequence)).verdict
                assert verdict.next_token == TARGET.greedy([*PROMPT, *output], 1)[0]
            text = GreedyText(TARGET, PROMPT)
            assert await text.run(device, 1, 20, 4, fresh=False) == TARGET.greedy(PROMPT, 20)


async def test_an_engine_failure_refuses_its_rounds_and_nobody_else() -> None:
    failures: list[int] = []

    def fail_on_poison(items: Sequence[StepItem]) -> None:
        slots = tuple(item.slot for item in items if 66 in item.tokens)
        if slots and len(failures) < 3:
            failures.append(len(items))
            raise EngineError("no memory for this sequence", slots)

    engine = FakeEngine(model=TARGET, context_tokens=256, before_step=fail_on_poison)
    async with server_with_bystander(engine) as server, greeted(server.address) as device:
        prompt = [1, 2, 66, 3]
        await device.open(1, prompt)
        refused_times = 0
        text = GreedyText(TARGET, prompt)
        while len(text.output) < 20:
            draft = text.draft(4)
            try:
                verdict = await device.round(1, prompt, text.output, draft)
            except RefusedByVerifier as refusal:
                assert refusal.reason == reason(Reason.INTERNAL)
                assert refusal.refused.retry_after_ms > 0
                refused_times += 1
                continue
            text.output += [*draft[: verdict.accepted], verdict.next_token]
        assert text.output[:20] == TARGET.greedy(prompt, 20)
        assert refused_times >= 1
        assert server.backend.stats().engine_failures_total == 3


async def test_a_defect_of_the_engine_is_refused_as_internal_and_ends_readiness() -> None:
    def explode(items: Sequence[StepItem]) -> None:
        raise RuntimeError("a defect")

    engine = FakeEngine(model=TARGET, before_step=explode)
    async with running_server(engine=engine) as server, greeted(server.address) as device:
        await device.open(1, [1])
        refused = await refusal_of(device.round(1, [1], (), []))
        assert refused.reason == reason(Reason.INTERNAL)
        assert server.backend.failed.is_set()


# ---- who may call


async def test_unauthorised_devices_are_refused_before_their_first_frame(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("pi-1:secret-token-of-pi-1\n*:token-of-the-operator\n")
    async with running_server(
        engine=FakeEngine(model=TARGET), auth={"tokensFile": tokens}
    ) as server:
        for token in (None, "", "wrong-but-long-enough", "secret-token-of-pi-1x"):
            async with connected(server.address, token=token) as device:
                device.call.write  # noqa: B018 - the call exists, nothing was sent on it
                frame = await device.call.read()
                assert frame.refused.reason == reason(Reason.UNAUTHENTICATED)
                assert await device.call.code() == grpc.StatusCode.UNAUTHENTICATED
        async with connected(server.address, token="secret-token-of-pi-1") as device:
            refused = await refusal_of(device.greet(hello_frame("pi-2")))
            assert refused.reason == reason(Reason.UNAUTHENTICATED)
        for token, name in (("secret-token-of-pi-1", "pi-1"), ("token-of-the-operator", "any")):
            async with connected(server.address, token=token) as device:
                await device.greet(hello_frame(name))
                await device.open(1, PROMPT)
        assert counted(server, Reason.UNAUTHENTICATED) == 5


async def test_a_withdrawn_token_opens_nothing_more(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("pi-1:secret-token-of-pi-1\n")
    async with running_server(
        engine=FakeEngine(model=TARGET), auth={"tokensFile": tokens}
    ) as server:
        async with connected(server.address, token="secret-token-of-pi-1") as device:
            await device.greet(hello_frame("pi-1"))
            await device.open(1, PROMPT)
            tokens.write_text("pi-1:another-token-of-pi-1\n")
            await device.send(open_frame(2, PROMPT))
            refused = await refusal_of(device.answer(0))
            assert refused.reason == reason(Reason.UNAUTHENTICATED)
        await streams_left(server, 0)
        async with connected(server.address, token="another-token-of-pi-1") as device:
            await device.greet(hello_frame("pi-1"))


