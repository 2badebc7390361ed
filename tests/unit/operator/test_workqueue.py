from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from sled_operator import workqueue
from sled_operator.workqueue import Retry, WorkQueue


class Seen:
    def __init__(self) -> None:
        self.errors: list[str | None] = []
        self.enough = asyncio.Event()
        self.count = 0

    def until(self, count: int) -> None:
        self.count = count

    def done(self, key: object, seconds: float, error: str | None) -> None:
        self.errors.append(error)
        if len(self.errors) >= self.count:
            self.enough.set()


async def finish(queue: WorkQueue[str], seen: Seen, workers: int = 2) -> None:
    tasks = [asyncio.create_task(queue.worker()) for _ in range(workers)]
    async with asyncio.timeout(10):
        await seen.enough.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    queue.close()


async def test_a_key_waits_once_however_often_it_is_added() -> None:
    looked: Counter[str] = Counter()

    async def work(key: str) -> float | None:
        looked[key] += 1
        return None

    seen = Seen()
    seen.until(2)
    queue = WorkQueue(work, seen)
    for _ in range(100):
        queue.add("a")
    queue.add("b")
    await finish(queue, seen)
    assert looked == {"a": 1, "b": 1}


async def test_a_change_during_a_look_causes_one_more_and_never_two_at_once() -> None:
    running, most, looks = 0, 0, 0

    async def work(key: str) -> float | None:
        nonlocal running, most, looks
        running += 1
        looks += 1
        most = max(most, running)
        if looks == 1:
            queue.add(key)
            queue.add(key)
            await asyncio.sleep(0)
        running -= 1
        return None

    seen = Seen()
    seen.until(2)
    queue = WorkQueue(work, seen)
    queue.add("a")
    await finish(queue, seen)
    assert (looks, most) == (2, 1)
    assert queue.idle


async def test_a_failing_key_is_tried_again_and_stops_nobody() -> None:
    tries: Counter[str] = Counter()

    async def work(key: str) -> float | None:
        tries[key] += 1
        if key == "bad" and tries[key] == 1:
            raise Retry("not yet")
        if key == "odd" and tries[key] == 1:
            raise ValueError("unexpected")
        return None

    seen = Seen()
    seen.until(5)
    queue = WorkQueue(work, seen)
    for key in ("bad", "odd", "good"):
        queue.add(key)
    await finish(queue, seen, workers=1)
    assert tries == {"bad": 2, "odd": 2, "good": 1}
    assert seen.errors[:3] == ["Retry", "ValueError", None]


async def test_the_sooner_timer_wins() -> None:
    async def work(key: str) -> float | None:
        return None

    seen = Seen()
    seen.until(1)
    queue = WorkQueue(work, seen)
    queue.add_after("a", 1000)
    queue.add_after("a", 0)
    queue.add_after("a", 1000)
    await finish(queue, seen)
    assert seen.errors == [None]


async def test_a_burst_that_can_wait_costs_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workqueue, "SOON_SECONDS", 0.02)
    looked: Counter[str] = Counter()

    async def work(key: str) -> float | None:
        looked[key] += 1
        return None

    seen = Seen()
    seen.until(1)
    queue = WorkQueue(work, seen)
    for _ in range(100):
        queue.add_soon("a")
    assert queue.idle
    await finish(queue, seen)
    assert looked == {"a": 1}


async def test_a_key_whose_looks_take_long_pauses_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workqueue, "SOON_SECONDS", 0.01)
    loop = asyncio.get_running_loop()
    began: list[float] = []
    ended: list[float] = []

    async def work(key: str) -> float | None:
        began.append(loop.time())
        await asyncio.sleep(0.05)
        queue.add_soon(key)
        ended.append(loop.time())
        return 1000.0

    seen = Seen()
    seen.until(3)
    queue = WorkQueue(work, seen)
    queue.add("a")
    await finish(queue, seen)
    assert began[2] - ended[1] > 0.4
