"""The backend `openai`: each waiting round becomes a question to a model server, as many at once as there are places.

All state lives in the `Desk` on the event loop. Must not know gRPC, HTTP or what a server's answers look like.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType

from sled_verifier.answers import Outcome
from sled_verifier.backend import BackendStats, Capacity
from sled_verifier.batched import SWEEP_SECONDS, StepObserver
from sled_verifier.engine.base import EngineInfo
from sled_verifier.job import Job, JobItem, JobResult
from sled_verifier.limits import Limits
from sled_verifier.openai.desk import Desk
from sled_verifier.openai.target import TargetError, TargetServer
from sled_verifier.queue import Round
from sled_verifier.refusal import Reason, Refusal
from sled_verifier.rounds import Admission, DraftRequest, OpenRequest, RoundVerdict
from sled_verifier.session import Session
from sled_verifier.waiters import Expiry, Waiters
from sled_verifier.window import Window

_log = logging.getLogger(__name__)


class OpenAIBackend:
    """`VerifierBackend` over a `TargetServer`. Use it as an async context manager, which closes the server's
    connections at the end.

    A server that is away fails rounds, not the backend: they are refused with a time to try again. `failed` is set
    only by a defect.
    """

    def __init__(
        self,
        server: TargetServer,
        info: EngineInfo,
        vocabulary_gguf: bytes,
        limits: Limits,
        *,
        observer: StepObserver | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.observer = observer
        """Told of answers and verdicts."""
        self.failed = asyncio.Event()
        self.stuck = False
        self.step_started_at: float | None = None
        """Always None: each question has a time limit of its own."""
        self.info = info
        self._server = server
        self._vocabulary_gguf = vocabulary_gguf
        self._desk = Desk(info, limits)
        self._clock = clock or asyncio.get_running_loop().time
        self._waiters = Waiters()
        self._expiry = Expiry(self._clock, self._desk.next_deadline, self._expire)
        self._questions: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self._queue_window = Window()
        self._step_window = Window()
        self._answers = 0
        self._failures = 0
        self._away = False

    async def __aenter__(self) -> OpenAIBackend:
        self._sweeper = asyncio.create_task(self._sweep(), name="sweeper")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        running = [*self._questions, *([self._sweeper] if self._sweeper else [])]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        self._expiry.cancel()
        self._waiters.refuse_all(Refusal(Reason.DRAINING, "the replica has stopped"))
        await self._server.close()

    async def open(self, request: OpenRequest) -> Admission:
        """See `VerifierBackend.open`. The server's prefix cache is not visible, so `cached_tokens` is 0."""
        self._check_alive()
        return self._desk.open(request, self._clock())

    async def verify(self, key: int, draft: DraftRequest) -> RoundVerdict:
        """See `VerifierBackend.verify`."""
        self._check_alive()
        answer = self._desk.submit(key, draft, self._clock())
        if answer is not None:
            return answer
        waiter = self._waiters.expect(key)
        self._ask_more()
        self._expiry.arm()
        return await self._waiters.verdict(key, waiter, self._desk.withdraw)

    def close(self, key: int) -> None:
        """See `VerifierBackend.close`."""
        self._desk.close(key)
        self._waiters.closed(key)

    def capacity(self) -> Capacity:
        """See `VerifierBackend.capacity`."""
        limits = self._desk.limits
        return Capacity(limits.max_queue, limits.max_sequences, self.info.slots)

    def stats(self) -> BackendStats:
        """See `VerifierBackend.stats`. What the server holds and computes of prompts is not visible: zeros."""
        now = self._clock()
        median, high = self._queue_window.quantiles((0.5, 0.95), now)
        return BackendStats(
            load=self._desk.load,
            resident_sequences=0,
            evicted_sequences=0,
            rounds_running=self._desk.rounds_running,
            queue_seconds_p50=median,
            queue_seconds_p95=high,
            step_seconds_p50=self._step_window.quantiles((0.5,), now)[0],
            steps_total=self._answers,
            evictions_total=0,
            prefill_tokens_total=0,
            prefix_cached_tokens_total=0,
            engine_failures_total=self._failures,
            foretold_tokens_total=0,
        )

    async def tokenizer_gguf(self) -> bytes:
        """See `VerifierBackend.tokenizer_gguf`."""
        return self._vocabulary_gguf

    # ---- questions

    def _ask_more(self) -> None:
        while (question := self._desk.next_question()) is not None:
            task = asyncio.create_task(self._ask(*question), name="question")
            self._questions.add(task)
            task.add_done_callback(self._questions.discard)

    async def _ask(self, waiting: Round, session: Session) -> None:
        started = self._clock()
        try:
            outcome = await self._answer(waiting, session, started)
        except Exception:
            # A defect: the desk may not know any more what is being asked (typed: INTERNAL).
            _log.exception("a question died")
            self.failed.set()
            self._waiters.refuse_all(
                Refusal(Reason.INTERNAL, "the replica failed; go to another one")
            )
            return
        self._account(waiting, self._clock() - started)
        self._reply(outcome)
        self._ask_more()

    async def _answer(self, waiting: Round, session: Session, started: float) -> Outcome:
        try:
            choices = await self._server.choices(session.tokens, waiting.draft.draft_tokens)
        except TargetError as error:
            self._failures += 1
            self._note(away=True, why=error.message)
            return self._desk.failed(waiting.key, error)
        self._note(away=False)
        now = self._clock()
        return self._desk.answered(waiting.key, choices, now - started, now)

    def _note(self, *, away: bool, why: str = "") -> None:
        """One log line when the server goes away and one when it is back."""
        if away and not self._away:
            _log.warning("the model server fails", extra={"error": why})
        if self._away and not away:
            _log.info("the model server answers again")
        self._away = away

    def _account(self, waiting: Round, seconds: float) -> None:
        self._answers += 1
        self._step_window.add(seconds, self._clock())
        if self.observer is not None:
            tokens = (0,) * (len(waiting.draft.draft_tokens) + 1)
            item = JobItem(waiting.key, 0, 0, tokens, None)
            self.observer.step_done(Job((), (item,)), JobResult((), seconds))

    def _reply(self, outcome: Outcome) -> None:
        result = outcome.result
        if isinstance(result, RoundVerdict):
            self._queue_window.add(result.queue_seconds, self._clock())
            if self.observer is not None:
                self.observer.round_answered(result)
        self._waiters.settle(outcome.key, result)

    # ---- time

    def _expire(self) -> None:
        for outcome in self._desk.expire(self._clock()):
            self._reply(outcome)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self._desk.forget_idle(self._clock())

    def _check_alive(self) -> None:
        if self.failed.is_set():
            raise Refusal(Reason.INTERNAL, "the replica failed; go to another one")
