"""The vLLM backend: the step loop (order, run, take over, reply) over a runtime that one thread owns.

All state lives in the `Roster` on the event loop; the runtime's thread sees one immutable order at a
time. Must not know gRPC or import vLLM.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any

from sled_verifier.answers import Outcome
from sled_verifier.backend import BackendStats, Capacity
from sled_verifier.batched import RETRY_SECONDS, SWEEP_SECONDS, StepObserver
from sled_verifier.engine.base import EngineError, EngineInfo
from sled_verifier.job import Job, JobItem, JobResult
from sled_verifier.limits import Limits
from sled_verifier.load_control import LoadControl
from sled_verifier.measuring import measure_steps
from sled_verifier.refusal import Reason, Refusal
from sled_verifier.rounds import Admission, DraftRequest, OpenRequest, RoundVerdict
from sled_verifier.vllm.measuring import measure_step
from sled_verifier.vllm.roster import Roster
from sled_verifier.vllm.runtime import DraftingRuntime, StepOrder, StepReport
from sled_verifier.waiters import Expiry, Waiters
from sled_verifier.window import Window

_log = logging.getLogger(__name__)

CLOSE_SECONDS = 30.0
"""How long a step that runs at the end, and freeing the model after it, may take."""


class VllmBackend:
    """`VerifierBackend` over a `DraftingRuntime`. Make it with `load`; use it as an async context
    manager, which closes the runtime at the end.

    `failed` is set when the runtime or the step loop failed: vLLM cannot go on after a failed step.
    Every waiting round has then been refused, devices resume on another replica from what they
    have, and the process should end. `stuck` is set at the end when the runtime did not stop in time;
    its thread then runs on, and only the end of the process ends it.
    """

    def __init__(
        self,
        runtime: DraftingRuntime,
        thread: ThreadPoolExecutor,
        limits: Limits,
        *,
        control: LoadControl | None = None,
        measure_seconds: float = 0.0,
        observer: StepObserver | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._measure_seconds = measure_seconds
        self.observer = observer
        """Told of steps and verdicts."""
        self.failed = asyncio.Event()
        self.stuck = False
        self.step_started_at: float | None = None
        """When the running step began (by the loop's clock), None between steps; for liveness
        checks.
        """
        self._runtime = runtime
        self._thread = thread
        self._roster = Roster(runtime.info, limits, control)
        self._clock = clock or asyncio.get_running_loop().time
        self._waiters = Waiters()
        self._wake = asyncio.Event()
        self._expiry = Expiry(self._clock, self._roster.next_deadline, self._expire)
        self._loop_task: asyncio.Task[None] | None = None
        self._queue_window = Window()
        self._step_window = Window()
        self._next_sweep = 0.0
        self._steps = 0
        self._prefill_tokens = 0
        self._cached_tokens = 0
        self._engine_failures = 0

    @classmethod
    async def load(
        cls,
        make_runtime: Callable[[], DraftingRuntime],
        limits: Limits,
        **options: Any,
    ) -> VllmBackend:
        """Load the target model without blocking the event loop.

        `make_runtime` runs in the thread that will own the runtime: vLLM's compute threads belong to
        the thread that started them. `options` are those of the class.

        Raises:
            EngineError: see `launch.load_runtime`.
        """
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vllm")
        try:
            runtime = await asyncio.get_running_loop().run_in_executor(thread, make_runtime)
        except BaseException:
            thread.shutdown(wait=False)
            raise
        return cls(runtime, thread, limits, **options)

    async def __aenter__(self) -> VllmBackend:
        if self._measure_seconds > 0:
            await self._measure()
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
        # A step cannot be interrupted, so the runtime is closed after it, in its own thread.
        closing = self._thread.submit(self._runtime.close)
        done, _ = await asyncio.wait((asyncio.wrap_future(closing),), timeout=CLOSE_SECONDS)
        self.stuck = not done
        if self.stuck:
            _log.error("the engine does not stop", extra={"seconds": CLOSE_SECONDS})
        self._thread.shutdown(wait=not self.stuck)

    @property
    def info(self) -> EngineInfo:
        """See `VerifierBackend.info`."""
        return self._runtime.info

    async def open(self, request: OpenRequest) -> Admission:
        """See `VerifierBackend.open`. How much of the prompt is cached shows only later, so
        `cached_tokens` is 0.
        """
        self._check_alive()
        admission = self._roster.open(request, self._clock())
        self._wake.set()
        return admission

    async def verify(self, key: int, draft: DraftRequest) -> RoundVerdict:
        """See `VerifierBackend.verify`."""
        self._check_alive()
        answer = self._roster.submit(key, draft, self._clock())
        if isinstance(answer, RoundVerdict):
            return answer
        waiter = self._waiters.expect(key)
        if answer is not None:
            self._reply(answer)
        self._wake.set()
        self._expiry.arm_by(self._roster.deadline_of(key))
        return await self._waiters.verdict(key, waiter, self._withdraw)

    def _withdraw(self, key: int) -> None:
        self._roster.withdraw(key, self._clock())

    def close(self, key: int) -> None:
        """See `VerifierBackend.close`."""
        self._roster.close(key)
        self._wake.set()
        self._waiters.closed(key)

    def capacity(self) -> Capacity:
        """See `VerifierBackend.capacity`."""
        limits = self._roster.limits
        return Capacity(limits.max_queue, limits.max_sequences, self._roster.seats.count)

    def stats(self) -> BackendStats:
        """See `VerifierBackend.stats`."""
        now = self._clock()
        load = self._roster.load
        resident = len(self._roster.seats)
        median, high = self._queue_window.quantiles((0.5, 0.95), now)
        return BackendStats(
            load=load,
            resident_sequences=resident,
            evicted_sequences=max(0, load.active_sequences - resident),
            rounds_running=self._roster.rounds_running,
            queue_seconds_p50=median,
            queue_seconds_p95=high,
            step_seconds_p50=self._step_window.quantiles((0.5,), now)[0],
            steps_total=self._steps,
            evictions_total=self._roster.seats.evictions,
            prefill_tokens_total=self._prefill_tokens,
            prefix_cached_tokens_total=self._cached_tokens,
            engine_failures_total=self._engine_failures,
            foretold_tokens_total=self._roster.foretold_tokens,
        )

    async def tokenizer_gguf(self) -> bytes:
        """See `VerifierBackend.tokenizer_gguf`."""
        return self._runtime.tokenizer_gguf()

    async def _measure(self) -> None:
        measure = partial(measure_step, self._runtime)
        roster, loop = self._roster, asyncio.get_running_loop()
        samples = await loop.run_in_executor(
            self._thread,
            partial(measure_steps, measure, self.info, roster.limits, self._measure_seconds),
        )
        roster.control.measured(samples)

    # ---- the step loop

    async def _run(self) -> None:
        try:
            while True:
                await self._step()
        except EngineError as error:
            self._engine_failures += 1
            _log.error("engine failure", extra={"error": str(error)})
            self._fail()
        except Exception:
            # A defect: roster and runtime may disagree, so nothing more may be answered from them
            # (typed: INTERNAL).
            _log.exception("the step loop died")
            self._fail()

    def _fail(self) -> None:
        self.step_started_at = None
        self.failed.set()
        self._waiters.refuse_all(Refusal(Reason.INTERNAL, "the replica failed; go to another one"))

    async def _step(self) -> None:
        loop = asyncio.get_running_loop()
        await self._gather()
        self._wake.clear()
        now = self._clock()
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_SECONDS
            self._roster.forget_idle(now)
        order = self._roster.order(now)
        if order is None:
            await self._idle()
            return
        self.step_started_at = loop.time()
        report = await loop.run_in_executor(self._thread, self._runtime.run, order)
        self.step_started_at = None
        outcomes = self._roster.apply(order, report, self._clock())
        self._account(order, report)
        for outcome in outcomes:
            self._reply(outcome)
        self._expiry.arm()

    async def _gather(self) -> None:
        """Let drafts that are about to arrive join the next step."""
        # What has arrived already shall be heard first.
        await asyncio.sleep(0)
        hold = self._roster.hold(self._clock())
        while hold is not None and self._roster.waiting < hold.rounds:
            left = hold.until - self._clock()
            if left <= 0:
                return
            self._wake.clear()
            await self._sleep(left)

    async def _idle(self) -> None:
        await self._sleep(RETRY_SECONDS if self._roster.waits_for_seat else SWEEP_SECONDS)

    async def _sleep(self, seconds: float) -> None:
        """Until something wakes the loop, but no longer."""
        # Not wait_for: in Python 3.11 that swallows a cancellation which comes together with a wake.
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    def _account(self, order: StepOrder, report: StepReport) -> None:
        if not report.ran:
            return
        now = self._clock()
        tokens = sum(count for _, count in report.ran)
        judged = [o.verified + 1 for o in report.outputs if o.verified is not None]
        self._steps += 1
        self._step_window.add(report.seconds, now)
        self._prefill_tokens += tokens - sum(judged)
        self._cached_tokens += report.cached_tokens
        if self.observer is not None:
            items = tuple(JobItem(key, 0, 0, (0,) * count, None) for key, count in report.ran)
            self.observer.step_done(Job((), items), JobResult((), report.seconds))

    def _reply(self, outcome: Outcome) -> None:
        result = outcome.result
        if isinstance(result, RoundVerdict):
            self._queue_window.add(result.queue_seconds, self._clock())
            if self.observer is not None:
                self.observer.round_answered(result)
        self._waiters.settle(outcome.key, result)

    def _expire(self) -> None:
        for outcome in self._roster.expire(self._clock()):
            self._reply(outcome)

    def _check_alive(self) -> None:
        if self.failed.is_set():
            raise Refusal(Reason.INTERNAL, "the replica failed; go to another one")
