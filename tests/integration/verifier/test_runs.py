"""The verifier goes on by itself: a verdict for each token, the text that asking would have given, and an end in time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from sled_protocol.limits import MAX_RUN_TOKENS
from sled_protocol.v1 import verifier_pb2 as pb
from sled_speculation.sampling import SamplingParams
from sled_testkit.verifier import running_server, total
from sled_testkit.verifier_device import (
    Device,
    RefusedByVerifier,
    close_frame,
    draft_frame,
    greeted,
)
from sled_testkit.verifier_faults import GatedEngine, nothing_held, until
from sled_verifier.engine.fake import FakeEngine, ToyModel
from sled_verifier.server import VerifierServer

TARGET = ToyModel(vocab_size=100, seed=6)
PROMPT = [1, 2, 3]


async def run_of(device: Device, first: pb.ClientFrame) -> list[pb.Verdict]:
    """Ask once; all verdicts up to the one after which it is the device's turn."""
    await device.send(first)
    verdicts = [(await device.answer(1)).verdict]
    while verdicts[-1].goes_on:
        verdicts.append((await device.answer(1)).verdict)
    return verdicts


def lengths(verdicts: Sequence[pb.Verdict]) -> list[int]:
    return [verdict.committed_length for verdict in verdicts]


async def asked(device: Device, sequence: int, sampling: SamplingParams, tokens: int) -> list[int]:
    """The text when each token is asked for."""
    await device.open(sequence, PROMPT, (), sampling)
    text: list[int] = []
    while len(text) < tokens:
        text.append((await device.round(sequence, PROMPT, text)).next_token)
    return text


async def held_in_a_run(engine: GatedEngine, device: Device, tokens: int) -> list[int]:
    """Begin a run of so many tokens, its first step held; returns the text before it."""
    await device.open(1, PROMPT)
    await device.round(1, PROMPT, ())
    text = TARGET.greedy(PROMPT, 1)
    engine.shut()
    await device.send(draft_frame(1, PROMPT, text, run_tokens=tokens, run_on=True))
    await until(engine.entered.is_set)
    return text


@pytest.mark.parametrize("temperature", [0.0, 0.9])
async def test_a_run_is_the_text_that_asking_gives(temperature: float) -> None:
    sampling = SamplingParams(temperature=temperature, seed=5)
    async with (
        running_server(engine=FakeEngine(model=TARGET)) as server,
        greeted(server.address) as device,
    ):
        await device.open(1, PROMPT, (), sampling)
        verdicts = await run_of(device, draft_frame(1, PROMPT, (), run_tokens=12, run_on=True))
        text = [verdict.next_token for verdict in verdicts]
        assert lengths(verdicts) == list(range(12))
        assert text == await asked(device, 2, sampling, 12)
        # The device's turn again, with a draft.
        more = await device.round(1, PROMPT, text, [1, 2])
        assert more.committed_length == 12


async def test_a_draft_comes_first_and_counts() -> None:
    right = TARGET.greedy(PROMPT, 20)
    async with (
        running_server(engine=FakeEngine(model=TARGET)) as server,
        greeted(server.address) as device,
    ):
        await device.open(1, PROMPT)
        first = draft_frame(1, PROMPT, (), right[:3], run_tokens=8, run_on=True)
        verdicts = await run_of(device, first)
        assert [verdict.accepted for verdict in verdicts] == [3, 0, 0, 0, 0]
        assert [verdict.next_token for verdict in verdicts] == right[3:8]
        assert lengths(verdicts) == [0, 4, 5, 6, 7]


async def test_without_need_nobody_goes_on() -> None:
    """An idle server takes any draft: it hints more than 0, so it waits for the device."""
    async with (
        running_server(engine=FakeEngine(model=TARGET)) as server,
        greeted(server.address) as device,
    ):
        await device.open(1, PROMPT)
        assert len(await run_of(device, draft_frame(1, PROMPT, (), run_tokens=8))) == 1
        assert unasked(server) == 0


async def test_runs_of_many_sequences_share_their_steps() -> None:
    async with (
        running_server(engine=FakeEngine(model=TARGET)) as server,
        greeted(server.address) as device,
    ):
        for sequence in range(1, 5):
            await device.open(sequence, [sequence, *PROMPT])
            await device.round(sequence, [sequence, *PROMPT], ())
        before = server.backend.stats().steps_total
        for sequence in range(1, 5):
            prompt = [sequence, *PROMPT]
            text = TARGET.greedy(prompt, 1)
            await device.send(draft_frame(sequence, prompt, text, run_tokens=40, run_on=True))
        for sequence in range(1, 5):
            while (await device.answer(sequence)).verdict.goes_on:
                pass
        assert server.backend.stats().steps_total - before <= 60
        assert unasked(server) == 4 * 39


async def test_a_wish_without_bounds_is_bounded() -> None:
    async with (
        running_server(engine=FakeEngine(model=TARGET)) as server,
        greeted(server.address) as device,
    ):
        await device.open(1, PROMPT)
        first = draft_frame(1, PROMPT, (), run_tokens=2**32 - 1, run_on=True)
        assert len(await run_of(device, first)) == MAX_RUN_TOKENS


async def test_an_end_token_ends_a_run() -> None:
    text = TARGET.greedy(PROMPT, 20)
    end = text[5]
    engine = FakeEngine(model=ToyModel(vocab_size=100, seed=6), end_tokens=(end,))
    async with running_server(engine=engine) as server, greeted(server.address) as device:
        await device.open(1, PROMPT)
        first = draft_frame(1, PROMPT, (), run_tokens=20, run_on=True)
        assert len(await run_of(device, first)) == text.index(end) + 1


async def test_no_draft_is_taken_while_a_run_is_under_way() -> None:
    engine = GatedEngine(model=TARGET)
    async with running_server(engine=engine) as server, greeted(server.address) as device:
        text = await held_in_a_run(engine, device, 4)
        await device.send(draft_frame(1, PROMPT, text, [1]))
        with pytest.raises(RefusedByVerifier) as refusal:
            await device.answer(1)
        assert refusal.value.reason == pb.REFUSAL_REASON_ROUND_IN_FLIGHT
        engine.gate.set()
        assert [(await device.answer(1)).verdict.goes_on for _ in range(4)] == [True] * 3 + [False]


async def test_a_device_that_goes_away_ends_its_run() -> None:
    engine = GatedEngine(model=TARGET)
    async with running_server(engine=engine) as server:
        async with greeted(server.address) as device:
            await held_in_a_run(engine, device, 60)
            await device.send(close_frame(1))
            await until(lambda: server.backend.stats().load.active_sequences == 0)
            engine.gate.set()
            await until(lambda: server.backend.stats().resident_sequences == 0)
            assert unasked(server) == 0
        await until(lambda: nothing_held(server))


async def test_a_drain_ends_a_run_with_its_next_token() -> None:
    engine = GatedEngine(model=TARGET)
    async with running_server(engine=engine) as server, greeted(server.address) as device:
        await held_in_a_run(engine, device, 60)
        draining = asyncio.create_task(server.drain("a newer version takes over"))
        await device.answer(0)
        engine.gate.set()
        assert not (await device.answer(1)).verdict.goes_on
        await draining


def unasked(server: VerifierServer) -> int:
    return total(server, "sled_unasked_rounds")
