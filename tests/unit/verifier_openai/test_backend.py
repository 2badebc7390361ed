"""The backend `openai` over its fake server: what devices see, whatever the server does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from sled_speculation.sampling import Guide, SamplingParams
from sled_testkit.text_device import (
    TextDevice,
    ask_again,
    draft_request,
    open_request,
    write_together,
)
from sled_verifier.engine.base import EngineInfo
from sled_verifier.limits import Limits
from sled_verifier.openai.backend import OpenAIBackend
from sled_verifier.openai.fake import FakeTarget
from sled_verifier.openai.target import TargetError
from sled_verifier.refusal import Reason, Refusal

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]
INFO = EngineInfo("toy", "openai/fake", 256, 128, 2, 128, b"", (), "approximate")


@asynccontextmanager
async def serving(
    server: FakeTarget | None = None, limits: Limits | None = None
) -> AsyncIterator[OpenAIBackend]:
    limits = limits or Limits(max_draft_tokens=8)
    async with OpenAIBackend(server or FakeTarget(), INFO, b"GGUF", limits) as backend:
        yield backend


class Gate:
    """Holds answers back until it is opened."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.prefixes: list[list[int]] = []

    async def __call__(self, prefix: Sequence[int], draft: Sequence[int]) -> None:
        self.prefixes.append(list(prefix))
        await self.open.wait()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_every_device_gets_the_targets_text_and_places_are_bounded() -> None:
    server = FakeTarget(before_answer=lambda prefix, draft: asyncio.sleep(0.001))
    async with serving(server) as backend:
        prompts = [[n, *PROMPT] for n in range(9)]
        texts = [server.model.greedy(prompt, 40) for prompt in prompts]
        fleet = [
            TextDevice(backend, prompt, text, draft_tokens=n, seed=n)
            for n, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
        ]
        assert await write_together(fleet, 40) == texts
        stats = backend.stats()
        assert stats.steps_total == server.asked == sum(device.rounds for device in fleet)
        assert (stats.load.active_sequences, stats.load.queue_depth, stats.rounds_running) == (
            9,
            0,
            0,
        )
        assert stats.queue_seconds_p95 > 0
    assert server.together == INFO.slots
    assert server.closed


@pytest.mark.parametrize(
    "sampling", [SamplingParams(temperature=0.7), SamplingParams(repetition_penalty=1.1)]
)
async def test_what_cannot_be_exact_is_refused(sampling: SamplingParams) -> None:
    async with serving() as backend:
        with pytest.raises(Refusal, match="allows only") as refused:
            await backend.open(open_request(PROMPT, sampling=sampling))
        assert refused.value.reason is Reason.INVALID_SAMPLING
        assert refused.value.retry_after_ms == 0


async def test_a_failing_server_refuses_rounds_and_keeps_the_sequence() -> None:
    away = True

    async def fail(prefix: Sequence[int], draft: Sequence[int]) -> None:
        if away:
            raise TargetError("the model server cannot be reached", 2_000)

    server = FakeTarget(before_answer=fail)
    text = server.model.greedy(PROMPT, 12)
    async with serving(server) as backend:
        device = TextDevice(backend, PROMPT, text)
        await device.open()
        with pytest.raises(Refusal, match="cannot be reached") as refused:
            await device.round()
        assert (refused.value.reason, refused.value.retry_after_ms) == (Reason.INTERNAL, 2_000)
        away = False
        assert await device.write(12) == text
        assert backend.stats().engine_failures_total == 1
        assert not backend.failed.is_set()


async def test_ids_outside_the_vocabulary_are_not_passed_on() -> None:
    class Odd(FakeTarget):
        async def choices(self, prefix: Sequence[int], draft: Sequence[int]) -> tuple[int, ...]:
            return (*(await super().choices(prefix, draft))[:-1], INFO.vocab_size)

    async with serving(Odd()) as backend:
        key = (await backend.open(open_request(PROMPT))).key
        with pytest.raises(Refusal, match="outside the vocabulary") as refused:
            await backend.verify(key, draft_request(PROMPT, ()))
        assert refused.value.reason is Reason.INTERNAL


async def test_a_full_queue_and_a_passed_deadline_are_refused() -> None:
    gate = Gate()
    server = FakeTarget(before_answer=gate)
    limits = Limits(max_draft_tokens=8, max_queue=1)
    async with serving(server, limits) as backend:
        keys = [(await backend.open(open_request([n, *PROMPT]))).key for n in range(4)]

        def ask(n: int, seconds: float = 60.0) -> asyncio.Task[object]:
            request = draft_request([n, *PROMPT], (), deadline_seconds=seconds)
            return asyncio.create_task(backend.verify(keys[n], request))

        first, second = ask(0), ask(1)
        await settled()
        third = ask(2, 0.05)
        await settled()
        with pytest.raises(Refusal) as full:
            await ask(3)
        assert (full.value.reason, full.value.retry_after_ms) == (Reason.QUEUE_FULL, 200)
        with pytest.raises(Refusal, match="for the model server") as late:
            await third
        assert late.value.reason is Reason.DEADLINE_EXCEEDED
        gate.open.set()
        await asyncio.gather(first, second)


async def test_the_most_urgent_draft_is_asked_about_first() -> None:
    gate = Gate()
    server = FakeTarget(before_answer=gate)
    async with serving(server) as backend:
        keys = [(await backend.open(open_request([n, *PROMPT]))).key for n in range(5)]
        tasks = []
        for n, seconds in enumerate((60, 60, 50, 20, 40)):
            request = draft_request([n, *PROMPT], (), deadline_seconds=seconds)
            tasks.append(asyncio.create_task(backend.verify(keys[n], request)))
            await settled()
        gate.open.set()
        await asyncio.gather(*tasks)
    assert [prefix[0] for prefix in gate.prefixes] == [0, 1, 3, 4, 2]


async def test_a_lost_round_can_be_asked_for_again_and_a_withdrawn_one_is_not_asked() -> None:
    gate = Gate()
    server = FakeTarget(before_answer=gate)
    text = server.model.greedy(PROMPT, 4)
    async with serving(server) as backend:
        keys = [(await backend.open(open_request(PROMPT))).key for _ in range(3)]
        draft = draft_request(PROMPT, (), text[:3])
        tasks = [asyncio.create_task(backend.verify(key, draft)) for key in keys]
        await settled()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        with pytest.raises(Refusal) as running:
            await backend.verify(keys[0], draft)
        assert running.value.reason is Reason.ROUND_IN_FLIGHT
        gate.open.set()
        verdict = await ask_again(backend, keys[0], draft)
        assert (verdict.accepted, verdict.next_token) == (3, text[3])
        await settled()
        assert server.asked == 2


async def test_closing_ends_a_round_and_frees_its_place() -> None:
    gate = Gate()
    async with serving(FakeTarget(before_answer=gate)) as backend:
        key = (await backend.open(open_request(PROMPT))).key
        task = asyncio.create_task(backend.verify(key, draft_request(PROMPT, ())))
        await settled()
        backend.close(key)
        with pytest.raises(Refusal) as closed:
            await task
        assert closed.value.reason is Reason.UNKNOWN_SEQUENCE
        gate.open.set()
        await settled()
        assert backend.stats().rounds_running == 0
        backend.close(key)


async def test_stopping_refuses_what_waits() -> None:
    async with serving(FakeTarget(before_answer=Gate())) as backend:
        key = (await backend.open(open_request(PROMPT))).key
        task = asyncio.create_task(backend.verify(key, draft_request(PROMPT, ())))
        await settled()
    with pytest.raises(Refusal) as stopped:
        await task
    assert stopped.value.reason is Reason.DRAINING


async def test_idle_sequences_are_forgotten() -> None:
    now = 0.0
    limits = Limits(max_draft_tokens=8, idle_seconds=30.0)
    async with OpenAIBackend(FakeTarget(), INFO, b"GGUF", limits, clock=lambda: now) as backend:
        key = (await backend.open(open_request(PROMPT))).key
        now = 31.0
        assert backend._desk.forget_idle(now) == 1
        with pytest.raises(Refusal) as unknown:
            await backend.verify(key, draft_request(PROMPT, ()))
        assert unknown.value.reason is Reason.UNKNOWN_SEQUENCE


async def test_a_defect_ends_the_backend() -> None:
    async def break_down(prefix: Sequence[int], draft: Sequence[int]) -> None:
        raise KeyError("a defect")

    async with serving(FakeTarget(before_answer=break_down)) as backend:
        key = (await backend.open(open_request(PROMPT))).key
        with pytest.raises(Refusal) as failed:
            await backend.verify(key, draft_request(PROMPT, ()))
        assert failed.value.reason is Reason.INTERNAL
        assert backend.failed.is_set()
        with pytest.raises(Refusal):
            await backend.open(open_request(PROMPT))


async def test_a_guide_is_refused() -> None:
    async with serving() as backend:
        with pytest.raises(Refusal) as refused:
            await backend.open(open_request(PROMPT, sampling=SamplingParams(guide=Guide())))
    assert refused.value.reason is Reason.INVALID_SAMPLING
