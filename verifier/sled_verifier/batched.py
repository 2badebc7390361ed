"""The batched backend: the step loop (schedule, run, accept, reply) over an engine that one thread
owns.

All state lives in the `Scheduler` on the event loop; the engine thread sees one immutable job at a
time. Must not know gRPC.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Protocol

from sled_verifier.answers import Outcome
from sled_verifier.backend import BackendStats, Capacity
from sled_verifier.engine.base import Engine, EngineInfo
from sled_verifier.job import Job, JobResult, run_job
from sled_verifier.limits import Limits
from sled_verifier.load_control import LoadControl
from sled_verifier.measuring import measure_engine
from sled_verifier.refusal import Reason, Refusal
from sled_verifier.rounds import Admission, DraftRequest, OpenRequest, RoundVerdict
from sled_verifier.scheduler import Scheduler
from sled_verifier.slots import SlotPolicy
from sled_verifier.waiters import Expiry, Waiters
from sled_verifier.window import Window

_log = logging.getLogger(__name__)

RETRY_SECONDS = 0.1
"""How soon to plan again when work waits for a slot that only time can free."""

CLOSE_SECONDS = 10.0
"""How long a running step and the release of the engine may take at the end."""
SWEEP_SECONDS = 1.0
"""How often idle sequences are looked for."""


class StepObserver(Protocol):
    """Told about each step and each answered round; metrics implement it."""

    def step_done(self, job: Job, result: JobResult) -> None:
        """A step ran (or failed)."""
        ...

    def round_answered(self, verdict: RoundVerdict) -> None:
        """A round got its verdict for the first time."""
        ...


class BatchedBackend:
    """`VerifierBackend` over an `Engine`. Use as an async context manager: the engine is closed at
    the end, not opened. `measure_seconds` are spent on entering to learn what steps cost.

    `failed` is set when the step loop died of a defect; every waiting round has then been refused
    and nothing will run any more, so the process should end.
    """

    def __init__(
        self,
        engine: Engine,
        limits: Limits,
        *,
        policy: SlotPolicy | None = None,
        control: LoadControl | None = None,
        measure_seconds: float = 0.0,
        observer: StepObserver | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.failed = asyncio.Event()
        self.stuck = False
        self._engine = engine
        self._measure_seconds = measure_seconds
        self._scheduler = Scheduler(engine.info, limits, policy, control)
        self._observer = observer
        self._clock = clock or asyncio.get_running_loop().time
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._waiters = Waiters()
        self._wake = asyncio.Event()
        self._expiry = Expiry(self._clock, self._scheduler.next_deadline, self._expire)
        self._loop_task: asyncio.Task[None] | None = None
        self._queue_window = Window()
        self._step_window = Window()
        self._next_sweep = 0.0
        self._tokenizer: bytes | None = None
        self._steps = 0
        self._prefill_tokens = 0
        self._engine_failures = 0
        self.step_started_at: float | None = None
        """When the running step began (by the loop's clock), None between steps; for liveness
        checks.
        """

    async def __aenter__(self) -> BatchedBackend:
        loop = asyncio.get_running_loop()
        limits, seconds = self._scheduler.limits, self._measure_seconds
        samples = await loop.run_in_executor(
            self._thread, measure_engine, self._engine, limits, seconds
        )
        self._scheduler.control.measured(samples)
        self._loop_task = asyncio.create_task(self._run(), name="step-loop")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._loop_task is not None:
            self._loop_task.cancel()
            await asyncio.wait([self._loop_task])
        self._expiry.cancel()
        self._waiters.refuse_all(Refusal(Reason.DRAINING, "the replica has stopped"))
        # A step cannot be interrupted, so the engine is closed after it, in its own thread.
        closing = self._thread.submit(self._engine.close)
        done, _ = await asyncio.wait((asyncio.wrap_future(closing),), timeout=CLOSE_SECONDS)
        self.stuck = not done
        if self.stuck:
            _log.error("the engine does not stop", extra={"seconds": CLOSE_SECONDS})
        self._thread.shutdown(wait=not self.stuck)

    @property
    def info(self) -> EngineInfo:
        """See `VerifierBackend.info`."""
        return self._engine.info

    async def open(self, request: OpenRequest) -> Admission:
        """See `VerifierBackend.open`."""
        self._check_alive()
        admission = self._scheduler.open(request, self._clock())
        self._wake.set()
        return admission

    async def verify(self, key: int, draft: DraftRequest) -> RoundVerdict:
        """See `VerifierBackend.verify`."""
        self._check_alive()
        answer = self._scheduler.submit(key, draft, self._clock())
        if isinstance(answer, RoundVerdict):
            return answer
        waiter = self._waiters.expect(key)
        if answer is not None:
            self._reply(answer)
        self._wake.set()
        self._expiry.arm_by(self._scheduler.deadline_of(key))
        return await self._waiters.verdict(key, waiter, self._scheduler.withdraw)

    def close(self, key: int) -> None:
        """See `VerifierBackend.close`."""
        self._scheduler.close(key)
        self._waiters.closed(key)

    def capacity(self) -> Capacity:
        """See `VerifierBackend.capacity`."""
        limits = self._scheduler.limits
        slots = self._scheduler.residency.table.usable
        return Capacity(limits.max_queue, limits.max_sequences, slots)

    def stats(self) -> BackendStats:
        """See `VerifierBackend.stats`."""
        now = self._clock()
        load = self._scheduler.load
        resident = self._scheduler.resident_sequences
        median, high = self._queue_window.quantiles((0.5, 0.95), now)
        counters = self._scheduler.residency.counters
        return BackendStats(
            load=load,
            resident_sequences=resident,
            evicted_sequences=max(0, load.active_sequences - resident),
            rounds_running=self._scheduler.rounds_running,
            queue_seconds_p50=median,
            queue_seconds_p95=high,
            step_seconds_p50=self._step_window.quantiles((0.5,), now)[0],
            steps_total=self._steps,
            evictions_total=counters.evictions,
            prefill_tokens_total=self._prefill_tokens,
            prefix_cached_tokens_total=counters.prefix_cached_tokens,
            engine_failures_total=self._engine_failures,
            foretold_tokens_total=self._scheduler.foretold_tokens,
        )

    async def tokenizer_gguf(self) -> bytes:
        """See `VerifierBackend.tokenizer_gguf`."""
        if self._tokenizer is None:
            loop = asyncio.get_running_loop()
            self._tokenizer = await loop.run_in_executor(self._thread, self._engine.tokenizer_gguf)
        return self._tokenizer

    # ---- the step loop

    async def _run(self) -> None:
        try:
            while True:
                await self._step()
        except Exception:
            # A defect: state and engine may disagree, so nothing more may be answered from them
            # (typed: INTERNAL).
            _log.exception("the step loop died")
            self.failed.set()
            self._waiters.refuse_all(
                Refusal(Reason.INTERNAL, "the replica failed; go to another one")
            )

    async def _gather(self) -> None:
        """Let drafts that are about to arrive join the next step."""
        # What has arrived already shall be heard first.
        await asyncio.sleep(0)
        hold = self._scheduler.hold(self._clock())
        while hold is not None and self._scheduler.waiting < hold.rounds:
            left = hold.until - self._clock()
            if left <= 0:
                return
            self._wake.clear()
            await self._sleep(left)

    async def _step(self) -> None:
        await self._gather()
        self._wake.clear()
        loop = asyncio.get_running_loop()
        now = self._clock()
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_SECONDS
            self._scheduler.forget_idle(now)
        job = self._scheduler.plan(now)
        if job is None:
            await self._idle()
            return
        self.step_started_at = loop.time()
        result = await loop.run_in_executor(self._thread, run_job, self._engine, job)
        self.step_started_at = None
        self._account(job, result)
        for outcome in self._scheduler.apply(job, result, self._clock()):
            self._reply(outcome)
        self._expiry.arm()

    async def _idle(self) -> None:
        await self._sleep(RETRY_SECONDS if self._scheduler.waits_for_slot else SWEEP_SECONDS)

    async def _sleep(self, seconds: float) -> None:
        """Until something wakes the loop, but no longer."""
        try:
            # Not wait_for: before Python 3.12 it loses a cancellation that meets the event.
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    def _account(self, job: Job, result: JobResult) -> None:
        now = self._clock()
        self._steps += 1
        self._step_window.add(result.step_seconds, now)
        judged = sum(len(i.trial.draft_tokens) + 1 for i in job.items if i.trial is not None)
        prefill = job.step_tokens - judged
        self._prefill_tokens += prefill
        if result.failure is not None:
            self._engine_failures += 1
            _log.error(
                "engine failure",
                extra={
                    "error": result.failure.message,
                    "failed_slots": sorted(result.failure.failed_slots),
                    "broken_slots": sorted(result.failure.broken_slots),
                },
            )
        if self._observer is not None:
            self._observer.step_done(job, result)

    def _reply(self, outcome: Outcome) -> None:
        result = outcome.result
        if isinstance(result, RoundVerdict):
            self._queue_window.add(result.queue_seconds, self._clock())
            if self._observer is not None:
                self._observer.round_answered(result)
        self._waiters.settle(outcome.key, result)

    def _expire(self) -> None:
        for outcome in self._scheduler.expire(self._clock()):
            self._reply(outcome)

    def _check_alive(self) -> None:
        if self.failed.is_set():
            raise Refusal(Reason.INTERNAL, "the replica failed; go to another one")
