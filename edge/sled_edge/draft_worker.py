"""The one thread that owns the drafter, so that drafting never blocks the event loop. Must not decide what to draft."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from sled_edge.drafter.base import Drafter, DrafterInfo, KeepDrafting, Proposal
from sled_edge.log import fields
from sled_speculation.sampling import SamplingParams

log = logging.getLogger(__name__)

T = TypeVar("T")


class DraftFailed(RuntimeError):
    """The drafter raised; the cause is chained. The sequence can go on without drafts."""


class DraftWorker:
    """Runs a drafter on a thread of its own; every method may be called from the event loop only.

    The drafter is built on that thread by `start`, because runtimes bind state to the thread that made them.
    """

    def __init__(self, build: Callable[[], Drafter]) -> None:
        self._build = build
        self._drafter: Drafter | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="sled-drafter")
        self._closing = threading.Event()
        self._proposals = 0

    async def start(self) -> DrafterInfo:
        """Build the drafter; whatever `build` raises is passed on."""
        loop = asyncio.get_running_loop()
        self._drafter = await loop.run_in_executor(self._executor, self._build)
        return self._drafter.info

    @property
    def info(self) -> DrafterInfo:
        """Facts about the drafter.

        Raises:
            RuntimeError: not started.
        """
        return self._started().info

    @property
    def wanted(self) -> bool:
        """True while a `propose` waits or runs; work ahead gives way to it. Readable from the thread."""
        return self._proposals > 0

    def submit(self, work: Callable[[Drafter], T]) -> Future[T]:
        """Queue work on the thread. What it raises arrives as `DraftFailed`."""
        drafter = self._started()
        if self._closing.is_set():
            refused: Future[T] = Future()
            refused.set_exception(DraftFailed("the drafter is closed"))
            return refused

        def guarded() -> T:
            try:
                return work(drafter)
            except Exception as error:
                raise DraftFailed(f"the {drafter.info.kind} drafter failed") from error

        return self._executor.submit(guarded)

    async def propose(
        self,
        sequence: int,
        prefix: Sequence[int],
        max_tokens: int,
        sampling: SamplingParams,
        keep_drafting: KeepDrafting,
    ) -> Proposal:
        """`Drafter.propose` on the thread. When the caller is cancelled, drafting stops before the next token.

        Raises:
            DraftFailed: the drafter raised, or is closed.
        """
        abandoned = threading.Event()

        def keep(confidences: Sequence[float]) -> bool:
            if abandoned.is_set() or self._closing.is_set():
                return False
            return keep_drafting(confidences)

        def work(drafter: Drafter) -> Proposal:
            return drafter.propose(sequence, prefix, max_tokens, sampling, keep)

        self._proposals += 1
        try:
            return await asyncio.wrap_future(self.submit(work))
        finally:
            self._proposals -= 1
            abandoned.set()

    def forget(self, sequence: int) -> None:
        """Free the sequence once the thread gets to it; never waits."""
        if self._drafter is not None and not self._closing.is_set():
            job = self._executor.submit(self._drafter.forget, sequence)
            job.add_done_callback(_note_failure)

    async def close(self) -> None:
        """Stop drafting, free the drafter, end the thread. May be called twice."""
        if self._closing.is_set():
            return
        self._closing.set()
        loop = asyncio.get_running_loop()
        if self._drafter is not None:
            await loop.run_in_executor(self._executor, self._drafter.close)
        await loop.run_in_executor(None, self._executor.shutdown)

    def _started(self) -> Drafter:
        if self._drafter is None:
            raise RuntimeError("the draft worker is not started")
        return self._drafter


def _note_failure(job: Future[None]) -> None:
    if not job.cancelled() and (error := job.exception()) is not None:
        log.error("the drafter could not forget a sequence", extra=fields(error=repr(error)))
