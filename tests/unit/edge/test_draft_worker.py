from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from sled_edge.draft_worker import DraftFailed, DraftWorker
from sled_edge.drafter.base import Drafter, Proposal
from sled_edge.drafter.fake import FakeDrafter
from sled_edge.fake_link import ToyTarget
from sled_speculation.sampling import SamplingParams

GREEDY = SamplingParams()


def _always(_confidences: Sequence[float]) -> bool:
    return True


async def test_one_thread_builds_runs_and_frees_the_drafter() -> None:
    threads: list[int] = []

    class Watched(FakeDrafter):
        def forget(self, sequence: int) -> None:
            threads.append(threading.get_ident())

        def close(self) -> None:
            threads.append(threading.get_ident())

    def build() -> Drafter:
        threads.append(threading.get_ident())
        return Watched(ToyTarget().logits)

    worker = DraftWorker(build)
    info = await worker.start()
    assert info == worker.info
    await worker.propose(1, (1, 2), 2, GREEDY, _always)
    worker.forget(1)
    await worker.close()
    await worker.close()
    assert len(threads) == 3
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


async def test_what_the_builder_raises_is_passed_on() -> None:
    def build() -> Drafter:
        raise OSError("no such model")

    worker = DraftWorker(build)
    with pytest.raises(OSError, match="no such model"):
        await worker.start()
    with pytest.raises(RuntimeError, match="not started"):
        _ = worker.info
    await worker.close()


async def test_a_cancelled_proposal_stops_before_its_next_token() -> None:
    worker = DraftWorker(lambda: FakeDrafter(ToyTarget().logits))
    await worker.start()
    reached, leave = threading.Event(), threading.Event()
    asked: list[int] = []

    def keep(confidences: Sequence[float]) -> bool:
        asked.append(len(confidences))
        reached.set()
        leave.wait(30)
        return True

    task = asyncio.create_task(worker.propose(1, (1, 2), 16, GREEDY, keep))
    await asyncio.to_thread(reached.wait)
    assert worker.wanted
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    leave.set()
    # The thread is free again, and the abandoned draft asked for no further token.
    after = await worker.propose(2, (1, 2), 3, GREEDY, _always)
    assert len(after.tokens) == 3
    assert asked == [0]
    assert not worker.wanted
    await worker.close()


async def test_a_closed_worker_refuses_typed() -> None:
    worker = DraftWorker(lambda: FakeDrafter(ToyTarget().logits))
    await worker.start()
    await worker.close()
    with pytest.raises(DraftFailed, match="closed"):
        await worker.propose(1, (1, 2), 3, GREEDY, _always)
    worker.forget(1)


async def test_a_drafter_that_raises_is_named_and_keeps_its_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(FakeDrafter):
        def propose(self, *_arguments: object, **_more: object) -> Proposal:
            raise ValueError("broken")

        def forget(self, sequence: int) -> None:
            raise ValueError("broken too")

    worker = DraftWorker(lambda: Broken(ToyTarget().logits))
    await worker.start()
    for _ in range(2):
        with pytest.raises(DraftFailed, match="fake drafter failed") as error:
            await worker.propose(1, (1, 2), 3, GREEDY, _always)
        assert isinstance(error.value.__cause__, ValueError)
    worker.forget(1)
    await worker.close()
    assert "could not forget" in caplog.text
