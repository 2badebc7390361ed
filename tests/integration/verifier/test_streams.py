"""Whatever ends a stream, everything it held is released at once and nobody else notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from sled_protocol.v1 import verifier_pb2 as pb
from sled_testkit.verifier import running_server
from sled_testkit.verifier_device import (
    Device,
    GreedyText,
    RefusedByVerifier,
    close_frame,
    connected,
    draft_frame,
    greeted,
    hello_frame,
)
from sled_testkit.verifier_faults import GatedEngine, nothing_held, until
from sled_verifier.engine.fake import FakeEngine, ToyModel
from sled_verifier.server import VerifierServer

TARGET = ToyModel(vocab_size=100, seed=6)
PROMPT = [1, 2, 3]


def sequences(server: VerifierServer) -> int:
    return server.backend.stats().load.active_sequences


@asynccontextmanager
async def held_mid_round(
    engine: GatedEngine, server: VerifierServer
) -> AsyncIterator[tuple[Device, Device, GreedyText]]:
    """A device with one round running and one queued, and a bystander whose round is queued too."""
    async with (
        greeted(server.address, "leaver") as leaver,
        greeted(server.address, "bystander") as bystander,
    ):
        text = GreedyText(TARGET, [8] * 9)
        for sequence in (1, 2):
            await leaver.open(sequence, PROMPT)
            await leaver.round(sequence, PROMPT, (), [])
        await bystander.open(1, text.prompt)
        # Answered once, so no prompt is left to compute and the held step is the leaver's
        # round.
        text.output = [(await bystander.round(1, text.prompt, (), [])).next_token]
        # A right draft needs the engine, whatever is foretold.
        first, *draft = TARGET.greedy(PROMPT, 4)
        engine.shut()
        await leaver.send(draft_frame(1, PROMPT, [first], draft))
        await until(engine.entered.is_set)
        await leaver.send(draft_frame(2, PROMPT, [first], draft))
        await bystander.send(draft_frame(1, text.prompt, text.output, text.draft(4)))
        await until(lambda: server.backend.stats().load.queue_depth == 2)
        yield leaver, bystander, text


async def finish_text(bystander: Device, text: GreedyText) -> None:
    draft = text.draft(4)
    verdict = (await bystander.answer(1)).verdict
    text.output += [*draft[: verdict.accepted], verdict.next_token]
    await text.run(bystander, 1, 30, 4, fresh=False)
    assert text.output == TARGET.greedy(text.prompt, 30)


async def test_a_device_that_vanishes_mid_round() -> None:
    """Sequences and queue are free while its step still runs, the slots when it ends."""
    engine = GatedEngine(model=TARGET)
    async with running_server(engine=engine) as server:
        async with held_mid_round(engine, server) as (leaver, bystander, text):
            leaver.call.cancel()
            await until(lambda: sequences(server) == 1)
            assert server.backend.stats().load.queue_depth == 1
            engine.gate.set()
            await finish_text(bystander, text)
        await until(lambda: nothing_held(server))


async def test_a_connection_that_breaks_mid_round() -> None:
    engine = GatedEngine(model=TARGET)
    async with running_server(engine=engine) as server, greeted(server.address, "b") as bystander:
        text = GreedyText(TARGET, [8] * 9)
        await bystander.open(1, text.prompt)
        channel = grpc.aio.insecure_channel(server.address)
        call = channel.stream_stream("/sled.v1.Verifier/Verify")()
        await call.write(hello_frame("gone").SerializeToString())
        await call.read()
        engine.shut()
        await bystander.send(draft_frame(1, text.prompt, (), text.draft(4)))
        await until(engine.entered.is_set)
        await channel.close()
        await until(lambda: server.service.open_streams == 1)
        engine.gate.set()
        await finish_text(bystander, text)


async def test_closing_a_sequence_mid_round_answers_nothing_and_frees_its_number() -> None:
    engine = GatedEngine(model=TARGET)
    async with running_server(engine=engine) as server:
        async with held_mid_round(engine, server) as (leaver, bystander, text):
            for sequence in (1, 2, 99):
                await leaver.send(close_frame(sequence))
            await until(lambda: sequences(server) == 1)
            for sequence in (1, 2):
                await leaver.open(sequence, PROMPT)
            engine.gate.set()
            await finish_text(bystander, text)
            again = GreedyText(TARGET, PROMPT)
            assert await again.run(leaver, 1, 20, 3, fresh=False) == TARGET.greedy(PROMPT, 20)
        await until(lambda: nothing_held(server))


async def test_a_device_that_half_closes_still_gets_its_verdicts() -> None:
    engine = GatedEngine(model=TARGET)
    async with (
        running_server(engine=engine) as server,
        held_mid_round(engine, server) as (leaver, bystander, text),
    ):
        await leaver.call.done_writing()
        engine.gate.set()
        for sequence in (1, 2):
            verdict = (await leaver.answer(sequence)).verdict
            assert verdict.committed_length == 1
        with pytest.raises(ConnectionError):
            await leaver.answer(0)
        assert await leaver.call.code() == grpc.StatusCode.OK
        await finish_text(bystander, text)


async def test_a_device_that_never_reads_is_not_read_from_for_ever() -> None:
    """It repeats one answered draft a hundred thousand times; what the server took is bounded by
    its outbox and by flow control, and the bystander is served meanwhile.
    """
    async with running_server(engine=FakeEngine(model=TARGET)) as server:
        channel = grpc.aio.insecure_channel(server.address)
        call = channel.stream_stream("/sled.v1.Verifier/Verify")()
        sent = 0

        async def flood() -> None:
            nonlocal sent
            await call.write(hello_frame("flood").SerializeToString())
            opening = pb.ClientFrame(open=pb.Open(sequence=1, prompt_tokens=PROMPT))
            await call.write(opening.SerializeToString())
            draft = draft_frame(1, PROMPT, (), [1] * 8).SerializeToString()
            while sent < 100_000:
                await call.write(draft)
                sent += 1

        flooding = asyncio.create_task(flood())
        async with greeted(server.address, "bystander") as bystander:
            # The bystander's rounds are the clock: the flood stalls, or its stream is closed,
            # within so many of them.
            last, number = -1, 0
            while sent != last and not flooding.done():
                last, number = sent, number + 1
                text = GreedyText(TARGET, [8] * 9)
                await text.run(bystander, number, 200, 4)
                assert text.output == TARGET.greedy(text.prompt, 200)
        assert sent < 100_000
        flooding.cancel()
        await asyncio.wait((flooding,))
        await channel.close()
        await until(lambda: nothing_held(server))


async def test_a_refused_stream_does_not_wait_for_ever_to_say_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its last round hangs in the engine; the stream is closed all the same and gives its sequence
    back.
    """
    monkeypatch.setattr("sled_verifier.servicer.SETTLE_SECONDS", 0.05)
    engine = GatedEngine(model=TARGET)
    async with running_server(engine=engine) as server, greeted(server.address) as device:
        await device.open(1, PROMPT)
        engine.shut()
        await device.send(draft_frame(1, PROMPT, (), [1]))
        await until(engine.entered.is_set)
        await device.send(pb.ClientFrame())
        with pytest.raises(RefusedByVerifier):
            await device.answer(0)
        await until(lambda: sequences(server) == 0)
        engine.gate.set()


async def test_idle_sequences_are_forgotten_and_can_be_opened_again() -> None:
    limits = {"idleSeconds": 0.05, "maxSequencesPerDevice": 1}
    async with (
        running_server(engine=FakeEngine(model=TARGET), batching=limits) as server,
        greeted(server.address) as device,
    ):
        text = GreedyText(TARGET, PROMPT)
        await device.open(1, PROMPT)
        await until(lambda: sequences(server) == 0)
        with pytest.raises(RefusedByVerifier) as refusal:
            await device.round(1, PROMPT, (), [1])
        assert refusal.value.reason == pb.REFUSAL_REASON_UNKNOWN_SEQUENCE
        await device.open(1, PROMPT)
        verdict = await device.round(1, PROMPT, (), [])
        assert verdict.next_token == TARGET.greedy(text.prompt, 1)[0]


async def test_a_stream_without_hello_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sled_verifier.servicer.HELLO_SECONDS", 0.01)
    async with (
        running_server(engine=FakeEngine(model=TARGET)) as server,
        connected(server.address) as device,
    ):
        frame = await device.call.read()
        assert frame.refused.reason == pb.REFUSAL_REASON_MALFORMED
        assert await device.call.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_device_that_does_nothing_right_is_cut_off() -> None:
    async with running_server(engine=FakeEngine(model=TARGET)) as server:
        async with greeted(server.address) as device:
            answers = []
            while (closing := device.control).empty():
                await device.send(draft_frame(7, PROMPT, (), [1]))
                answer = await device.queue(7).get()
                if answer is not None:
                    answers.append(answer.refused.reason)
            assert set(answers) == {pb.REFUSAL_REASON_UNKNOWN_SEQUENCE}
            assert 100 < len(answers) < 1000
            last = closing.get_nowait()
            assert last is not None
            assert last.refused.reason == pb.REFUSAL_REASON_MALFORMED
            assert await device.call.code() == grpc.StatusCode.INVALID_ARGUMENT
        await until(lambda: nothing_held(server))
