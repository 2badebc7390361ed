"""Drafting the next round while the verdict on this one is in flight (proactive drafting, SpecEdge, arXiv 2505.17052).

The draft is kept only when every token of the round in flight was accepted and the verdict's own token is the one the
work was based on. It is then exactly what drafting after the verdict would have given, so it can save time and never
change a token. Must not decide whether drafting ahead pays.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from sled_edge.draft_worker import DraftWorker
from sled_edge.drafter.base import Drafter, KeepDrafting, Proposal
from sled_speculation.sampling import SamplingParams

_KEEP = 0.9
_WORTH = 0.15
_PROBE_ROUNDS = 16


class AheadRecord:
    """Whether drafting ahead pays for one text: how often it was of use of late. Pure.

    Below a share of about one in seven the device saves its strength, and tries again now and then.
    """

    def __init__(self) -> None:
        self._share = 1.0
        self._idle_rounds = 0

    def worth(self) -> bool:
        """Asked once a round."""
        if self._share >= _WORTH:
            return True
        self._idle_rounds = (self._idle_rounds + 1) % _PROBE_ROUNDS
        return self._idle_rounds == 0

    def observe(self, kept: bool) -> None:
        """What became of one piece of work ahead."""
        self._share = _KEEP * self._share + (1 - _KEEP) * kept


class DraftAhead:
    """One piece of work ahead. Tell it the outcome with `settle` or `abandon`, then ask with `take`."""

    def __init__(
        self,
        worker: DraftWorker,
        sequence: int,
        prefix: Sequence[int],
        draft: tuple[int, ...],
        max_tokens: int,
        sampling: SamplingParams,
        guess_sampling: SamplingParams,
        keep_drafting: KeepDrafting,
    ) -> None:
        self._sequence = sequence
        self._base = (*prefix, *draft)
        self._max_tokens = max_tokens
        self._sampling = sampling
        self._guess_sampling = guess_sampling
        self._keep_drafting = keep_drafting
        self._abandoned = threading.Event()
        self._next_token: int | None = None
        self._worker = worker
        # Last: the thread may begin at once and reads all of the above.
        self._job: Future[tuple[int, Proposal] | None] = worker.submit(self._work)

    def when_done(self, tell: Callable[[int, Proposal], None]) -> None:
        """Tell, on the event loop, of work that is done before its outcome is known: the token it counts on, and the draft."""
        loop = asyncio.get_running_loop()

        def done(job: Future[tuple[int, Proposal] | None]) -> None:
            if job.cancelled() or job.exception() is not None:
                return
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(tell_unsettled, job.result())

        def tell_unsettled(result: tuple[int, Proposal] | None) -> None:
            if result and self._next_token is None and not self._abandoned.is_set():
                tell(*result)

        self._job.add_done_callback(done)

    def settle(self, next_token: int) -> None:
        """The whole draft was accepted and `next_token` follows it."""
        self._next_token = next_token

    def abandon(self) -> None:
        """The work is of no use; it stops before the next token."""
        self._abandoned.set()
        self._job.cancel()

    async def take(self) -> Proposal | None:
        """The draft after the settled token, waiting for work under way; None when it was based on another.

        Raises:
            DraftFailed: the drafter raised.
        """
        if self._next_token is None or self._abandoned.is_set():
            return None
        done = await asyncio.wrap_future(self._job)
        if done is None or done[0] != self._next_token:
            return None
        return done[1]

    def _work(self, drafter: Drafter) -> tuple[int, Proposal] | None:
        """On the drafter's thread. Reading the base is part of it, so even a wrong guess leaves a warm cache."""
        if self._abandoned.is_set():
            return None
        guess = drafter.propose(self._sequence, self._base, 1, self._guess_sampling, _always).tokens
        known = self._next_token
        if known is None:
            if not guess:
                return None
            known = guess[0]
        prefix = (*self._base, known)
        proposal = drafter.propose(
            self._sequence, prefix, self._max_tokens, self._sampling, self._keep(known)
        )
        return known, proposal

    def _keep(self, based_on: int) -> KeepDrafting:
        def keep(confidences: Sequence[float]) -> bool:
            settled = self._next_token
            if self._abandoned.is_set() or (settled is not None and settled != based_on):
                return False
            if settled is None and self._worker.wanted:
                return False
            return self._keep_drafting(confidences)

        return keep


def _always(_confidences: Sequence[float]) -> bool:
    return True
