"""Drafts sent before the verdict on the one before: the next round at once where they hold, silence where not, and in any
case the text that waiting would have given.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from sled_protocol.v1 import verifier_pb2 as pb
from sled_speculation.sampling import AcceptanceMode, SamplingParams
from sled_testkit.verifier import running_server, total
from sled_testkit.verifier_device import Device, RefusedByVerifier, draft_frame, greeted
from sled_testkit.verifier_faults import GatedEngine, until
from sled_verifier.engine.fake import FakeEngine, ToyModel
from sled_verifier.server import VerifierServer

TARGET = ToyModel(vocab_size=100, seed=6)
PROMPT = [1, 2, 3]
RIGHT = TARGET.greedy(PROMPT, 60)
WRONG = (RIGHT[4] + 1) % 100


def ahead_frame(committed: Sequence[int], draft: Sequence[int], **fields: int) -> pb.ClientFrame:
    """A draft that counts on all of `committed`, whose last token nobody has confirmed yet."""
    return draft_frame(1, PROMPT, committed, draft, follows_token=committed[-1], **fields)


async def held_round(
    engine: GatedEngine, device: Device, draft: Sequence[int], **fields: int
) -> None:
    """Four tokens are committed, and a round with this draft is in a step that is held."""
    await device.open(1, PROMPT)
    await device.round(1, PROMPT, (), RIGHT[:3])
    engine.shut()
    await device.send(draft_frame(1, PROMPT, RIGHT[:4], draft, **fields))
    await until(engine.entered.is_set)


def outcomes(server: VerifierServer) -> tuple[int, int]:
    """Drafts sent ahead that were kept, and dropped."""
    kept, dropped = (
        total(server, "sled_ahead_drafts", outcome=outcome) for outcome in ("kept", "dropped")
    )
    return kept, dropped


async def test_a_draft_that_holds_is_the_next_round_at_once() -> None:
    engine = GatedEngine(model=TARGET)
    async with running_server(engine=engine) as server, greeted(server.address) as device:
        assert device.welcome is not None
        assert device.welcome.takes_ahead
        await held_round(engine, device, RIGHT[4:7])
        steps = server.backend.stats().steps_total
        await device.send(ahead_frame(RIGHT[:8], RIGHT[8:10]))
        await until(lambda: server.backend.stats().rounds_running == 1)
        await asyncio.sleep(0.05)
        engine.gate.set()
        first, second = [(await device.answer(1)).verdict for _ in range(2)]
        assert (first.accepted, first.next_token, first.goes_on) == (3, RIGHT[7], False)
        assert (second.committed_length, second.accepted) == (8, 2)
        assert second.next_token == RIGHT[10]
        assert server.backend.stats().steps_total == steps + 2
        assert outcomes(server) == (1, 0)


@pytest.mark.parametrize(
    ("draft", "committed"),
    [
        ([WRONG, *RIGHT[5:7]], [*RIGHT[:4], WRONG, *RIGHT[5:8]]),
        (RIGHT[4:7], [*RIGHT[:7], (RIGHT[7] + 1) % 100]),
    ],
    ids=["rejected", "another bonus token"],
)
async def test_a_draft_that_does_not_hold_is_dropped_unanswered(
    draft: list[int], committed: list[int]
) -> None:
    engine = GatedEngine(model=TARGET)
    async with running_server(engine=engine) as server, greeted(server.address) as device:
        await held_round(engine, device, draft)
        await device.send(ahead_frame(committed, RIGHT[8:10]))
        await asyncio.sleep(0.05)
        engine.gate.set()
        verdict = (await device.answer(1)).verdict
        text = [*RIGHT[:4], *draft[: verdict.accepted], verdict.next_token]
        assert text == RIGHT[: len(text)]
        # The next answer is on what was sent next.
        following = await device.round(1, PROMPT, text, RIGHT[len(text) : len(text) + 2])
        assert (following.committed_length, following.accepted) == (len(text), 2)
        assert outcomes(server) == (0, 1)


@pytest.mark.parametrize("holds", [True, False])
async def test_a_draft_that_comes_after_the_verdict(holds: bool) -> None:
    async with (
        running_server(engine=FakeEngine(model=TARGET)) as server,
        greeted(server.address) as device,
    ):
        await device.open(1, PROMPT)
        await device.round(1, PROMPT, (), RIGHT[:3])
        expected = RIGHT[3] if holds else WRONG
        await device.send(ahead_frame([*RIGHT[:3], expected], RIGHT[4:6]))
        if not holds:
            await device.send(draft_frame(1, PROMPT, RIGHT[:4], RIGHT[4:7]))
        verdict = (await device.answer(1)).verdict
        assert (verdict.committed_length, verdict.accepted) == (4, 2 if holds else 3)
        assert outcomes(server) == (int(holds), int(not holds))


async def test_before_the_first_verdict_and_without_a_sequence_nothing_holds() -> None:
    async with (
        running_server(engine=FakeEngine(model=TARGET)) as server,
        greeted(server.address) as device,
    ):
        await device.send(ahead_frame(RIGHT[:4], RIGHT[4:6]))
        await device.open(1, PROMPT, RIGHT[:4])
        await device.send(ahead_frame(RIGHT[:4], RIGHT[4:6]))
        verdict = await device.round(1, PROMPT, RIGHT[:4], RIGHT[4:7])
        assert verdict.accepted == 3
        assert outcomes(server) == (0, 2)


async def test_the_last_one_counts() -> None:
    engine = GatedEngine(model=TARGET)
    async with running_server(engine=engine) as server, greeted(server.address) as device:
        await held_round(engine, device, RIGHT[4:7])
        await device.send(ahead_frame([*RIGHT[:7], WRONG], [1, 2]))
        await device.send(ahead_frame(RIGHT[:8], RIGHT[8:11]))
        await asyncio.sleep(0.05)
        engine.gate.set()
        assert [(await device.answer(1)).verdict.accepted for _ in range(2)] == [3, 3]
        assert outcomes(server) == (1, 1)


async def test_a_draft_that_holds_comes_before_going_on_alone() -> None:
    engine = GatedEngine(model=TARGET)
    async with running_server(engine=engine) as server, greeted(server.address) as device:
        await held_round(engine, device, RIGHT[4:7], run_tokens=20, run_on=True)
        await device.send(ahead_frame(RIGHT[:8], RIGHT[8:10]))
        await asyncio.sleep(0.05)
        engine.gate.set()
        verdicts = [(await device.answer(1)).verdict for _ in range(2)]
        assert [(v.accepted, v.goes_on) for v in verdicts] == [(3, False), (2, False)]


async def test_what_the_verifier_has_gone_on_with_comes_before_a_late_draft() -> None:
    engine = GatedEngine(model=TARGET)
    async with running_server(engine=engine) as server, greeted(server.address) as device:
        await held_round(engine, device, RIGHT[4:7], run_tokens=6, run_on=True)
        engine.gate.set()
        assert (await device.answer(1)).verdict.goes_on
        engine.shut()
        await device.send(ahead_frame(RIGHT[:8], RIGHT[8:10]))
        await asyncio.sleep(0.05)
        engine.gate.set()
        lengths = [(await device.answer(1)).verdict.committed_length for _ in range(2)]
        assert lengths == [8, 9]
        verdict = await device.round(1, PROMPT, RIGHT[:10], RIGHT[10:12])
        assert (verdict.committed_length, verdict.accepted) == (10, 2)
        assert outcomes(server) == (0, 1)


async def refused_after_a_verdict(device: Device) -> pb.Refused:
    """The round that was held is answered in full, and what was sent ahead of it refused by its own length."""
    assert (await device.answer(1)).verdict.accepted == 3
    with pytest.raises(RefusedByVerifier) as refusal:
        await device.answer(1)
    assert refusal.value.refused.committed_length == 8
    return refusal.value.refused


async def test_one_that_holds_and_cannot_be_taken_is_refused_by_its_own_length() -> None:
    engine = GatedEngine(model=TARGET)
    async with running_server(engine=engine) as server, greeted(server.address) as device:
        await held_round(engine, device, RIGHT[4:7])
        await device.send(ahead_frame(RIGHT[:8], [100_000]))
        await asyncio.sleep(0.05)
        engine.gate.set()
        refused = await refused_after_a_verdict(device)
        assert refused.reason == pb.REFUSAL_REASON_MALFORMED
        assert (await device.round(1, PROMPT, RIGHT[:8], RIGHT[8:10])).accepted == 2


async def test_a_drain_refuses_it_so_that_the_device_moves() -> None:
    engine = GatedEngine(model=TARGET)
    async with running_server(engine=engine) as server, greeted(server.address) as device:
        await held_round(engine, device, RIGHT[4:7])
        await device.send(ahead_frame(RIGHT[:8], RIGHT[8:10]))
        await asyncio.sleep(0.05)
        draining = asyncio.create_task(server.drain("a newer version takes over"))
        await device.answer(0)
        engine.gate.set()
        refused = await refused_after_a_verdict(device)
        assert refused.reason == pb.REFUSAL_REASON_DRAINING
        await draining


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("temperature", [0.0, 0.9])
async def test_whenever_drafts_are_sent_the_text_is_the_same(seed: int, temperature: float) -> None:
    sampling = SamplingParams(temperature=temperature, seed=3, mode=AcceptanceMode.MATCH)
    async with (
        running_server(engine=FakeEngine(model=TARGET)) as server,
        greeted(server.address) as device,
    ):
        plain: list[int] = []
        await device.open(2, PROMPT, (), sampling)
        while len(plain) < 60:
            plain.append((await device.round(2, PROMPT, plain)).next_token)
        await device.open(1, PROMPT, (), sampling)
        text = await written(device, plain, random.Random(seed))
        assert text == plain[: len(text)]
        assert sum(outcomes(server)) > 0


async def written(device: Device, known: Sequence[int], rng: random.Random) -> list[int]:
    """A text whose device guesses, sends ahead or not, early or late, and is right or not."""
    text: list[int] = []
    sent: list[int] | None = None
    while len(text) < 40:
        if sent is None:
            sent = guess(known[len(text) : len(text) + 3], rng)
            await device.send(draft_frame(1, PROMPT, text, sent))
        ahead = None
        if rng.random() < 0.7:
            expected = guess(known[len(text) + len(sent) :][:1], rng)
            ahead = [*text, *sent, *expected]
            draft = guess(known[len(ahead) : len(ahead) + 3], rng)
            await asyncio.sleep(rng.choice((0, 0, 0.002)))
            await device.send(ahead_frame(ahead, draft))
        verdict = (await device.answer(1)).verdict
        assert verdict.committed_length == len(text)
        text += [*sent[: verdict.accepted], verdict.next_token]
        sent = draft if ahead == text else None
    return text


def guess(right: Sequence[int], rng: random.Random) -> list[int]:
    """The right tokens, each of them wrong now and then."""
    return [token if rng.random() < 0.85 else (token + 1) % 100 for token in right]
