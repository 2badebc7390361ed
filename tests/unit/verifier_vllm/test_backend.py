"""The vLLM backend over its fake runtime: what devices see, whatever the runtime does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sled_speculation.sampling import Guide, SamplingParams
from sled_testkit.text_device import TextDevice, ask_again, draft_request, open_request
from sled_verifier.engine.base import EngineError
from sled_verifier.limits import Limits
from sled_verifier.refusal import Reason, Refusal
from sled_verifier.vllm.backend import VllmBackend
from sled_verifier.vllm.fake import FakeRuntime
from sled_verifier.vllm.runtime import StepOrder

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]


@asynccontextmanager
async def serving(
    runtime: FakeRuntime | None = None, limits: Limits | None = None
) -> AsyncIterator[VllmBackend]:
    limits = limits or Limits(max_draft_tokens=8)
    async with VllmBackend(
        runtime or FakeRuntime(), ThreadPoolExecutor(max_workers=1), limits
    ) as backend:
        yield backend


def devices(backend: VllmBackend, runtime: FakeRuntime, count: int) -> list[TextDevice]:
    prompts = [[n, *PROMPT] * (1 + n % 3) for n in range(count)]
    texts = [runtime.model.greedy(prompt, 60) for prompt in prompts]
    return [
        TextDevice(backend, prompts[n], texts[n], draft_tokens=n % 7, seed=n) for n in range(count)
    ]


async def written(fleet: list[TextDevice], tokens: int = 50) -> list[list[int]]:
    for device in fleet:
        await device.open()
    return list(await asyncio.gather(*(device.write(tokens) for device in fleet)))


@pytest.mark.parametrize("trim", [None, 0, 2])
async def test_every_device_gets_the_targets_text(trim: int | None) -> None:
    runtime = FakeRuntime(slots=16, trim_tokens=trim)
    async with serving(runtime) as backend:
        fleet = devices(backend, runtime, 12)
        assert await written(fleet) == [list(device.reference)[:50] for device in fleet]
        assert backend.stats().steps_total == runtime.steps


async def test_preempted_rounds_are_answered_from_what_the_target_chose_anew() -> None:
    rng = random.Random(1)
    runtime = FakeRuntime(slots=8, preempt=lambda key: rng.random() < 0.3)
    async with serving(runtime) as backend:
        fleet = devices(backend, runtime, 8)
        assert await written(fleet) == [list(device.reference)[:50] for device in fleet]


async def test_more_sequences_than_seats() -> None:
    runtime = FakeRuntime(slots=3)
    async with serving(runtime) as backend:
        fleet = devices(backend, runtime, 6)
        assert await written(fleet, 12) == [list(device.reference)[:12] for device in fleet]
        assert backend.stats().evictions_total > 0
        assert len(runtime.held) <= 3


async def test_a_lost_round_can_be_asked_for_again() -> None:
    runtime = FakeRuntime()
    text = runtime.model.greedy(PROMPT, 12)
    async with serving(runtime) as backend:
        key = (await backend.open(open_request(PROMPT))).key
        first = draft_request(PROMPT, [], text[:3])
        verdict = await backend.verify(key, first)
        assert (verdict.accepted, verdict.next_token, verdict.bonus) == (3, text[3], True)
        assert await backend.verify(key, first) == verdict
        again = draft_request(PROMPT, text[:4], text[4:6])
        lost = asyncio.ensure_future(backend.verify(key, again))
        await asyncio.sleep(0)
        lost.cancel()
        await asyncio.wait([lost])
        verdict = await ask_again(backend, key, again)
        assert (verdict.accepted, verdict.next_token) == (2, text[6])


async def test_a_wrong_first_token_is_recovered_without_a_step() -> None:
    runtime = FakeRuntime()
    text = runtime.model.greedy(PROMPT, 2)
    async with serving(runtime) as backend:
        key = (await backend.open(open_request(PROMPT))).key
        verdict = await backend.verify(key, draft_request(PROMPT, [], [text[0] ^ 1, 7]))
        assert (verdict.accepted, verdict.next_token, verdict.bonus) == (0, text[0], False)
        assert verdict.verified == 2
        assert runtime.steps == 1


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: draft_request(PROMPT, [1], [2]), Reason.STALE_PREFIX),
        (lambda: draft_request([*PROMPT[:-1], 7], [], [2]), Reason.STALE_PREFIX),
        (lambda: draft_request(PROMPT, [], [1] * 9), Reason.DRAFT_TOO_LONG),
    ],
)
async def test_drafts_that_are_refused(build: Any, reason: Reason) -> None:
    async with serving() as backend:
        key = (await backend.open(open_request(PROMPT))).key
        with pytest.raises(Refusal) as refused:
            await backend.verify(key, build())
        assert refused.value.reason is reason
        assert (await backend.verify(key, draft_request(PROMPT, []))).accepted == 0


@pytest.mark.parametrize(
    ("prompt", "committed", "sampling", "reason"),
    [
        ([1] * 256, [], SamplingParams(), Reason.PROMPT_TOO_LONG),
        ([1] * 200, [1] * 56, SamplingParams(), Reason.CONTEXT_FULL),
        ([1], [], SamplingParams(temperature=1, min_p=0.1), Reason.INVALID_SAMPLING),
    ],
)
async def test_sequences_that_are_refused(
    prompt: list[int], committed: list[int], sampling: SamplingParams, reason: Reason
) -> None:
    async with serving() as backend:
        with pytest.raises(Refusal) as refused:
            await backend.open(open_request(prompt, committed, sampling))
    assert refused.value.reason is reason


async def test_closing_frees_the_seat_and_refuses_the_round() -> None:
    runtime = FakeRuntime(slots=1)
    async with serving(runtime) as backend:
        first = (await backend.open(open_request(PROMPT))).key
        await backend.verify(first, draft_request(PROMPT, []))
        backend.close(first)
        backend.close(99)
        second = (await backend.open(open_request(PROMPT))).key
        await backend.verify(second, draft_request(PROMPT, []))
        assert runtime.held == {second}
        with pytest.raises(Refusal) as refused:
            await backend.verify(first, draft_request(PROMPT, []))
        assert refused.value.reason is Reason.UNKNOWN_SEQUENCE


async def test_a_failed_step_ends_the_backend_and_every_wait() -> None:
    def fail(order: StepOrder) -> None:
        if order.trials:
            raise EngineError("out of order")

    runtime = FakeRuntime(before_step=fail)
    async with serving(runtime) as backend:
        text = runtime.model.greedy(PROMPT, 2)
        key = (await backend.open(open_request(PROMPT))).key
        with pytest.raises(Refusal) as refused:
            await backend.verify(key, draft_request(PROMPT, [], text))
        assert refused.value.reason is Reason.INTERNAL
        assert backend.failed.is_set()
        with pytest.raises(Refusal):
            await backend.open(open_request(PROMPT))
        assert backend.stats().engine_failures_total == 1
    assert runtime.closed


async def test_a_sequence_that_the_runtime_will_not_take_is_refused() -> None:
    runtime = FakeRuntime()
    runtime.refuse_keys = {1}
    async with serving(runtime) as backend:
        key = (await backend.open(open_request(PROMPT))).key
        with pytest.raises(Refusal) as refused:
            await backend.verify(key, draft_request(PROMPT, []))
        assert refused.value.reason is Reason.UNKNOWN_SEQUENCE
        other = (await backend.open(open_request(PROMPT))).key
        await backend.verify(other, draft_request(PROMPT, []))


async def test_a_temperature_that_vllm_does_not_take_is_refused_at_the_door() -> None:
    async with serving() as backend:
        with pytest.raises(Refusal, match="at most 2") as refused:
            await backend.open(open_request(PROMPT, sampling=SamplingParams(temperature=2.5)))
        assert refused.value.reason is Reason.INVALID_SAMPLING
        await backend.open(open_request(PROMPT, sampling=SamplingParams(temperature=2)))


GUIDED = SamplingParams(guide=Guide('{"type": "array"}'))


async def test_a_guide_is_refused_by_a_runtime_that_has_none() -> None:
    async with serving() as backend:
        with pytest.raises(Refusal) as refused:
            await backend.open(open_request(PROMPT, sampling=GUIDED))
    assert refused.value.reason is Reason.INVALID_SAMPLING


async def test_a_guide_comes_with_how_much_of_the_prefix_is_output() -> None:
    """At the first opening, on another replica, and when the sequence lost its seat: the token that the
    runtime chose by itself is output too.
    """
    starts = []
    runtime = FakeRuntime(
        slots=1, guides=True, before_step=lambda order: starts.extend(order.start)
    )
    text = runtime.model.greedy(PROMPT, 8)
    async with serving(runtime) as backend:
        key = (await backend.open(open_request(PROMPT, text[:2], GUIDED))).key
        await backend.verify(key, draft_request(PROMPT, text[:2], text[2:4]))
        other = (await backend.open(open_request([7, *PROMPT]))).key
        await backend.verify(other, draft_request([7, *PROMPT], []))
        verdict = await backend.verify(key, draft_request(PROMPT, text[:5], text[5:6]))
    assert verdict.accepted == 1
    mine = [start for start in starts if start.key == key]
    assert [start.output_tokens for start in mine] == [2, 5]
    for start in mine:
        assert start.sampling.guide == GUIDED.guide
        assert list(start.tokens) == [*PROMPT, *text[: start.output_tokens]]


async def test_a_sequence_that_cannot_be_guided_is_refused_until_it_is_closed() -> None:
    runtime = FakeRuntime(guides=True)
    runtime.unguidable_keys = {1}
    async with serving(runtime) as backend:
        key = (await backend.open(open_request(PROMPT, sampling=GUIDED))).key
        for _ in range(2):
            with pytest.raises(Refusal) as refused:
                await backend.verify(key, draft_request(PROMPT, []))
            assert refused.value.reason is Reason.INVALID_SAMPLING
        other = (await backend.open(open_request(PROMPT, sampling=GUIDED))).key
        await backend.verify(other, draft_request(PROMPT, []))
        backend.close(key)
        assert backend.stats().load.active_sequences == 1


async def test_a_full_queue_refuses() -> None:
    limits = Limits(max_draft_tokens=8, max_queue=1)
    runtime = FakeRuntime(slots=1)
    async with serving(runtime, limits) as backend:
        keys = [(await backend.open(open_request([n, *PROMPT]))).key for n in range(2)]
        requests = [draft_request([n, *PROMPT], []) for n in range(2)]
        waits = [backend.verify(*pair) for pair in zip(keys, requests, strict=True)]
        answers = await asyncio.gather(*waits, return_exceptions=True)
    refusals = [answer.reason for answer in answers if isinstance(answer, Refusal)]
    assert refusals == [Reason.QUEUE_FULL]
