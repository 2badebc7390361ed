"""Greedy output over real gRPC equals the target's own, token for token, whatever the drafts and
whatever happens.
"""

from __future__ import annotations

import asyncio
import random

import pytest

from sled_protocol.v1 import verifier_pb2 as pb
from sled_speculation.sampling import SamplingParams
from sled_testkit.verifier import running_server, running_verifier
from sled_testkit.verifier_device import (
    GreedyText,
    RefusedByVerifier,
    connected,
    draft_frame,
    greeted,
    hello_frame,
)
from sled_verifier.engine.fake import FakeEngine, ToyModel
from sled_verifier.slots import SlotPolicy

TARGET = ToyModel(vocab_size=200, seed=7)
TOKENS = 48


def prompt_of(length: int, seed: int = 0) -> list[int]:
    rng = random.Random(f"prompt {length} {seed}")
    return [rng.randrange(TARGET.vocab_size) for _ in range(length)]


def text_of(prompt: list[int], skill: float = 0.8, seed: int = 0) -> GreedyText:
    return GreedyText(TARGET, prompt, skill=skill, seed=seed)


@pytest.mark.parametrize("skill", [0.0, 0.5, 1.0])
async def test_every_draft_length_gives_the_targets_own_text(skill: float) -> None:
    async with (
        running_verifier(
            engine=FakeEngine(model=TARGET, slots=16),
            batching={"maxSequencesPerDevice": 17},
        ) as address,
        greeted(address) as device,
    ):
        texts = [text_of(prompt_of(5 + k, k), skill, k) for k in range(17)]
        await asyncio.gather(*(t.run(device, k + 1, TOKENS, k) for k, t in enumerate(texts)))
    for text in texts:
        assert text.output == TARGET.greedy(text.prompt, TOKENS)


@pytest.mark.parametrize("skill", [0.0, 1.0])
async def test_perfect_drafts_save_rounds_and_wrong_ones_cost_none(skill: float) -> None:
    text = text_of(prompt_of(9), skill)
    async with (
        running_verifier(engine=FakeEngine(model=TARGET)) as address,
        greeted(address) as device,
    ):
        await text.run(device, 1, 45, 8)
    assert text.rounds == (5 if skill else 45)


@pytest.mark.parametrize("length", [1, 2, 3, 47, 48, 49, 255, 256, 257, 1000, 2000])
async def test_prompts_of_any_length(length: int) -> None:
    text = text_of(prompt_of(length))
    async with (
        running_verifier(engine=FakeEngine(model=TARGET)) as address,
        greeted(address) as device,
    ):
        await text.run(device, 1, TOKENS, 6)
    assert text.output == TARGET.greedy(text.prompt, TOKENS)


async def test_mixed_batches_of_long_and_short_on_few_slots() -> None:
    """More sequences than slots, so sequences are evicted and rebuilt all the time."""
    policy = SlotPolicy(keep_idle_seconds=0, patience_seconds=0, slice_seconds=0)
    engine = FakeEngine(model=TARGET, slots=3)
    rng = random.Random(3)
    texts = [text_of(prompt_of(rng.choice([1, 4, 60, 300, 900]), n), 0.7, n) for n in range(16)]
    async with running_server(engine=engine, policy=policy) as server:

        async def one(number: int) -> None:
            async with greeted(server.address, f"device-{number}") as device:
                await texts[number].run(device, 1, TOKENS, number + 1)

        await asyncio.gather(*(one(n) for n in range(16)))
        assert server.backend.stats().evictions_total > 0
    for text in texts:
        assert text.output == TARGET.greedy(text.prompt, TOKENS)


async def test_the_repetition_penalty_covers_prompt_and_output() -> None:
    """Against a plain loop over the toy model that applies the penalty itself."""
    sampling = SamplingParams(repetition_penalty=3.0)
    prompt = prompt_of(20)
    want: list[int] = []
    for _ in range(TOKENS):
        row = TARGET.logits([*prompt, *want]).astype(float)
        for token in {*prompt, *want}:
            row[token] = row[token] / 3.0 if row[token] > 0 else row[token] * 3.0
        want.append(int(row.argmax()))
    output: list[int] = []
    async with (
        running_verifier(engine=FakeEngine(model=TARGET)) as address,
        greeted(address) as device,
    ):
        await device.open(1, prompt, (), sampling)
        while len(output) < TOKENS:
            draft = [*want[len(output) : len(output) + 3], 5]
            verdict = await device.round(1, prompt, output, draft)
            output += [*draft[: verdict.accepted], verdict.next_token]
    assert output[:TOKENS] == want


async def test_a_shared_prefix_is_copied_and_changes_nothing() -> None:
    system = prompt_of(400)
    engine = FakeEngine(model=TARGET, slots=8)
    texts = [text_of([*system, *prompt_of(6, n)], seed=n) for n in range(6)]
    async with running_server(engine=engine) as server:
        async with greeted(server.address, "first") as device:
            await texts[0].run(device, 1, TOKENS, 4)

        async def one(number: int) -> None:
            async with greeted(server.address, f"device-{number}") as device:
                opened = await device.open(1, texts[number].prompt)
                assert opened.cached_tokens >= len(system)
                await texts[number].run(device, 1, TOKENS, 4, fresh=False)

        await asyncio.gather(*(one(n) for n in range(1, 6)))
        stats = server.backend.stats()
    assert stats.prefix_cached_tokens_total >= 5 * len(system)
    assert stats.prefill_tokens_total < 2 * len(system)
    for text in texts:
        assert text.output == TARGET.greedy(text.prompt, TOKENS)


async def test_devices_that_open_one_prompt_together_compute_it_once() -> None:
    """The first computes; the others wait and copy, rather than compute the same tokens again."""
    system = prompt_of(600)
    engine = FakeEngine(model=TARGET, slots=8)
    texts = [text_of([*system, n], seed=n) for n in range(6)]
    async with running_server(engine=engine) as server, greeted(server.address) as device:
        first, second = texts[:3], texts[3:]
        async with greeted(server.address, "device-2") as other:
            await asyncio.gather(
                *(t.run(device, n + 1, TOKENS, 4) for n, t in enumerate(first)),
                *(t.run(other, n + 1, TOKENS, 4) for n, t in enumerate(second)),
            )
        assert server.backend.stats().prefill_tokens_total < 2 * len(system)
    for text in texts:
        assert text.output == TARGET.greedy(text.prompt, TOKENS)


async def test_resume_on_another_replica() -> None:
    text = text_of(prompt_of(100))
    for tokens in (10, 11, 29, TOKENS):
        async with (
            running_verifier(engine=FakeEngine(model=TARGET)) as address,
            greeted(address) as device,
        ):
            await text.run(device, 1, tokens, 4)
    assert text.output == TARGET.greedy(text.prompt, len(text.output))
    assert len(text.output) >= TOKENS


async def test_reconnects_in_mid_round_lose_and_repeat_nothing() -> None:
    """The link is cut after each draft was sent, before its verdict is read; every third time it is
    let through.
    """
    text = text_of(prompt_of(30))
    async with running_verifier(engine=FakeEngine(model=TARGET)) as address:
        for attempt in range(200):
            if len(text.output) >= TOKENS:
                break
            async with greeted(address) as device:
                await device.open(1, text.prompt, text.output)
                draft = text.draft(5)
                await device.send(draft_frame(1, text.prompt, text.output, draft))
                if attempt % 3 == 2:
                    verdict = (await device.answer(1)).verdict
                    text.output += [*draft[: verdict.accepted], verdict.next_token]
    assert text.output[:TOKENS] == TARGET.greedy(text.prompt, TOKENS)


async def test_a_repeated_draft_gets_the_same_verdict_and_is_not_run_again() -> None:
    text = text_of(prompt_of(12))
    async with (
        running_server(engine=FakeEngine(model=TARGET)) as server,
        greeted(server.address) as device,
    ):
        await device.open(1, text.prompt)
        draft = text.draft(6)
        first = await device.round(1, text.prompt, (), draft)
        steps = server.backend.stats().steps_total
        second = await device.round(1, text.prompt, (), draft)
        assert server.backend.stats().steps_total == steps
        assert second.SerializeToString() == first.SerializeToString()
        assert server.service.tally.rounds == 1
        text.output = [*draft[: first.accepted], first.next_token]
        await text.run(device, 1, TOKENS, 6, fresh=False)
    assert text.output == TARGET.greedy(text.prompt, TOKENS)


async def test_a_stale_prefix_is_refused_and_the_sequence_goes_on() -> None:
    text = text_of(prompt_of(12))
    async with (
        running_verifier(engine=FakeEngine(model=TARGET)) as address,
        greeted(address) as device,
    ):
        await device.open(1, text.prompt)
        draft = text.draft(6)
        verdict = await device.round(1, text.prompt, (), draft)
        text.output = [*draft[: verdict.accepted], verdict.next_token]
        for committed, tokens in (([], [9, 9]), (text.output[:-1], [])):
            with pytest.raises(RefusedByVerifier) as refusal:
                await device.round(1, text.prompt, committed, tokens)
            assert refusal.value.reason == pb.REFUSAL_REASON_STALE_PREFIX
            assert refusal.value.refused.committed_length == len(committed)
        other = [(text.output[0] + 1) % 200, *text.output[1:]]
        with pytest.raises(RefusedByVerifier) as refusal:
            await device.round(1, text.prompt, other)
        assert refusal.value.reason == pb.REFUSAL_REASON_STALE_PREFIX
        await text.run(device, 1, TOKENS, 6, fresh=False)
    assert text.output == TARGET.greedy(text.prompt, TOKENS)


async def test_a_sampled_text_does_not_depend_on_its_neighbours() -> None:
    """The same seed and the same drafts alone, and among others on other slots, give the same
    tokens. Drafts are verified whole: how much of one pays is a matter of the load.
    """
    whole = {"loadAware": False}
    sampling = SamplingParams(temperature=0.9, top_p=0.95, seed=11)

    async def generate(address: str) -> list[int]:
        output: list[int] = []
        prompt = prompt_of(40)
        async with connected(address) as device:
            await device.greet(hello_frame("sampler"))
            await device.open(1, prompt, (), sampling)
            while len(output) < TOKENS:
                draft = TARGET.greedy([*prompt, *output], 4)
                verdict = await device.round(1, prompt, output, draft)
                output += [*draft[: verdict.accepted], verdict.next_token]
        return output[:TOKENS]

    async with running_verifier(
        engine=FakeEngine(model=TARGET, slots=1), batching=whole
    ) as address:
        alone = await generate(address)
    async with (
        running_verifier(engine=FakeEngine(model=TARGET, slots=5), batching=whole) as address,
        greeted(address, "crowd") as crowd,
    ):
        texts = [text_of(prompt_of(200, n), seed=n) for n in range(4)]
        results = await asyncio.gather(
            generate(address), *(t.run(crowd, n + 1, 80, 7) for n, t in enumerate(texts))
        )
    assert results[0] == alone
