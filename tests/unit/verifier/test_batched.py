"""The step loop around the scheduler: cancelling, closing, stopping and dying, with nobody left
waiting.
"""

from __future__ import annotations

import asyncio
import threading
from array import array
from collections.abc import Sequence

import pytest

from sled_protocol.prefix import prefix_hash
from sled_speculation.sampling import SamplingParams
from sled_testkit.verifier_faults import GatedEngine, until
from sled_verifier.batched import BatchedBackend
from sled_verifier.engine.base import StepItem
from sled_verifier.engine.fake import FakeEngine, ToyModel
from sled_verifier.limits import Limits
from sled_verifier.load_control import LoadControl, LoadSettings
from sled_verifier.refusal import Reason, Refusal
from sled_verifier.rounds import DraftRequest, OpenRequest

TARGET = ToyModel(vocab_size=64)
PROMPT = (1, 2, 3)


def opening(prompt: Sequence[int] = PROMPT) -> OpenRequest:
    return OpenRequest("d", array("I", prompt), array("I"), SamplingParams())


def draft(*tokens: int, committed: Sequence[int] = ()) -> DraftRequest:
    return DraftRequest(len(committed), prefix_hash([*PROMPT, *committed]), tokens)


async def test_one_thread_owns_the_engine_and_closes_it() -> None:
    threads: set[int] = set()

    def note(items: Sequence[StepItem]) -> None:
        threads.add(threading.get_ident())

    engine = FakeEngine(model=TARGET, before_step=note)
    async with BatchedBackend(engine, Limits()) as backend:
        keys = [(await backend.open(opening())).key for _ in range(4)]
        await asyncio.gather(*(backend.verify(key, draft(1)) for key in keys))
        assert len(threads) == 1
        assert threading.get_ident() not in threads
    assert engine.closed


async def test_the_event_loop_runs_while_a_step_does() -> None:
    engine = GatedEngine(model=TARGET)
    async with BatchedBackend(engine, Limits()) as backend:
        key = (await backend.open(opening())).key
        engine.shut()
        verifying = asyncio.create_task(backend.verify(key, draft(1)))
        await until(engine.entered.is_set)
        assert backend.step_started_at is not None
        assert backend.stats().load.active_sequences == 1
        assert not verifying.done()
        engine.gate.set()
        await verifying
        assert backend.step_started_at is None


async def test_a_cancelled_round_is_withdrawn() -> None:
    engine = GatedEngine(model=TARGET)
    alone = LoadControl(8, LoadSettings(foretell=False))
    async with BatchedBackend(engine, Limits(), control=alone) as backend:
        first, second = [(await backend.open(opening())).key for _ in range(2)]
        await backend.verify(first, draft())
        await backend.verify(second, draft())
        token = TARGET.greedy(PROMPT, 1)
        engine.shut()
        running = asyncio.create_task(backend.verify(first, draft(1, committed=token)))
        await until(engine.entered.is_set)
        queued = asyncio.create_task(backend.verify(second, draft(1, committed=token)))
        await until(lambda: backend.stats().load.queue_depth == 1)
        for task in (queued, running):
            task.cancel()
            await asyncio.wait((task,))
        assert backend.stats().load.queue_depth == 0
        engine.gate.set()
        await until(lambda: backend.stats().rounds_running == 0)
        again = await backend.verify(first, draft(1, committed=token))
        assert again.committed_length == 1
        await backend.verify(second, draft(2, committed=token))


async def test_closing_wakes_whoever_waits() -> None:
    engine = GatedEngine(model=TARGET)
    async with BatchedBackend(engine, Limits()) as backend:
        key = (await backend.open(opening())).key
        engine.shut()
        verifying = asyncio.create_task(backend.verify(key, draft(1)))
        await until(engine.entered.is_set)
        backend.close(key)
        backend.close(key)
        with pytest.raises(Refusal) as caught:
            await verifying
        assert caught.value.reason is Reason.UNKNOWN_SEQUENCE
        engine.gate.set()
        await until(lambda: backend.stats().resident_sequences == 0)


async def test_stopping_refuses_whoever_waits() -> None:
    engine = GatedEngine(model=TARGET)
    backend = BatchedBackend(engine, Limits())
    await backend.__aenter__()
    key = (await backend.open(opening())).key
    engine.shut()
    verifying = asyncio.create_task(backend.verify(key, draft(1)))
    await until(engine.entered.is_set)
    stopping = asyncio.create_task(backend.__aexit__(None, None, None))
    with pytest.raises(Refusal) as caught:
        await verifying
    assert caught.value.reason is Reason.DRAINING
    engine.gate.set()
    await stopping
    assert engine.closed


async def test_an_engine_that_hangs_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sled_verifier.batched.CLOSE_SECONDS", 0.01)
    engine = GatedEngine(model=TARGET)
    async with BatchedBackend(engine, Limits()) as backend:
        await backend.open(opening())
        engine.shut()
        await backend.open(opening((9, 8, 7)))
        await until(engine.entered.is_set)
    assert backend.stuck
    assert not engine.closed
    engine.gate.set()


async def test_a_defect_refuses_everybody_and_everything_after() -> None:
    def explode(items: Sequence[StepItem]) -> None:
        raise ZeroDivisionError

    async with BatchedBackend(FakeEngine(model=TARGET, before_step=explode), Limits()) as backend:
        keys = [(await backend.open(opening([n]))).key for n in range(3)]
        results = await asyncio.gather(
            *(backend.verify(k, DraftRequest(0, prefix_hash([n]), ())) for n, k in enumerate(keys)),
            return_exceptions=True,
        )
        for result in results:
            assert isinstance(result, Refusal)
            assert result.reason is Reason.INTERNAL
        assert backend.failed.is_set()
        with pytest.raises(Refusal):
            await backend.open(opening())


async def test_deadlines_pass_while_the_engine_is_busy() -> None:
    engine = GatedEngine(model=TARGET)
    async with BatchedBackend(engine, Limits(default_deadline_seconds=0.02)) as backend:
        first, second = [(await backend.open(opening())).key for _ in range(2)]
        await asyncio.gather(backend.verify(first, draft()), backend.verify(second, draft()))
        token = TARGET.greedy(PROMPT, 1)
        engine.shut()
        running = asyncio.create_task(backend.verify(first, draft(1, committed=token)))
        await until(engine.entered.is_set)
        with pytest.raises(Refusal) as caught:
            await backend.verify(second, draft(1, committed=token))
        assert caught.value.reason is Reason.DEADLINE_EXCEEDED
        engine.gate.set()
        await running
