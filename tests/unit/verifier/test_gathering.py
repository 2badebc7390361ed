"""Drafts that belong together share a step of the batched backend: whom the scheduler waits for, and how long."""

from __future__ import annotations

from sled_testkit.verifier_stepping import PROMPT, TARGET, Bench
from sled_verifier.engine.fake import FakeEngine
from sled_verifier.job import run_job
from sled_verifier.load_control import LoadControl, LoadSettings
from sled_verifier.rounds import RoundVerdict

STEP_SECONDS = 0.1


class Loop:
    """Devices that answer one after another, some time after each step, until steps of `STEP_SECONDS` took so many rounds."""

    def __init__(self, count: int, pause_seconds: float) -> None:
        engine = FakeEngine(model=TARGET, slots=count, context_tokens=400)
        alone = LoadControl(8, LoadSettings(foretell=False))
        self.bench = Bench(engine, control=alone)
        self.scheduler = self.bench.scheduler
        self.keys = [self.bench.open() for _ in range(count)]
        self.written: dict[int, list[int]] = {key: [] for key in self.keys}
        self.pause = pause_seconds
        self.arrivals = [(pause_seconds * n, key) for n, key in enumerate(self.keys)]
        self.sizes: list[int] = []

    def run(self, steps: int) -> float:
        now = 0.0
        while len(self.sizes) < steps:
            hold = self.scheduler.hold(now)
            if hold is not None and self.scheduler.waiting < hold.rounds and now < hold.until:
                following = min(self.arrivals)[0] if self.arrivals else hold.until
                now = min(hold.until, max(now, following))
            elif not self.scheduler.waiting:
                now = max(now, min(self.arrivals)[0])
            heard = [a for a in self.arrivals if a[0] <= now]
            self.arrivals = [a for a in self.arrivals if a[0] > now]
            for at, key in sorted(heard):
                self.bench.now = at
                self.bench.submit(key, committed=self.written[key], prompt=PROMPT)
            hold = self.scheduler.hold(now)
            if hold is not None and self.scheduler.waiting < hold.rounds and now < hold.until:
                continue
            now = self._step(now)
        return sum(self.sizes[10:]) / len(self.sizes[10:])

    def _step(self, now: float) -> float:
        job = self.scheduler.plan(now)
        if job is None:
            return now
        now += STEP_SECONDS
        times = iter((0.0, STEP_SECONDS))
        result = run_job(self.bench.engine, job, lambda: next(times))
        verdicts = self.scheduler.apply(job, result, now)
        for place, outcome in enumerate(verdicts):
            assert isinstance(outcome.result, RoundVerdict)
            self.written[outcome.key].append(outcome.result.next_token)
            self.arrivals.append((now + self.pause * (place + 1), outcome.key))
        if verdicts:
            self.sizes.append(len(verdicts))
        return now


def test_a_closed_loop_of_quick_devices_keeps_the_batch_full() -> None:
    assert Loop(12, 0.0005).run(60) > 11.5


def test_nobody_waits_for_devices_that_take_long() -> None:
    loop = Loop(2, 0.5)
    loop.run(12)
    assert max(loop.sizes[2:]) == 1


def test_nobody_is_waited_for_when_nothing_is_known() -> None:
    bench = Bench()
    key = bench.open()
    assert bench.scheduler.hold(0.0) is None
    bench.submit(key)
    assert bench.scheduler.hold(0.0) is None
