"""Which resources need a look, each at most once at a time. Must not know what a look is.

A key that is added while it is worked on is worked on once more afterwards; one that fails is tried
again with growing pauses, and never in the way of the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

K = TypeVar("K")
MAX_BACKOFF_SECONDS = 60.0
GATHER_SECONDS = 0.1
"""Pause before a key that changed during a look is looked at again: changes come in bursts."""
SOON_SECONDS = 1.0
"""Pause before a look that nobody waits for, so that a burst of changes costs one."""
SOON_SHARE, SOON_MOST_SECONDS = 0.1, 5.0
"""A key whose looks take long pauses longer, so that looks nobody waits for take at most this share
of the time; but never longer than this."""
log = logging.getLogger(__name__)


class Observer(Protocol):
    """What is told about each look."""

    def done(self, key: object, seconds: float, error: str | None) -> None:
        """A look at `key` took that long; `error` is the reason when it failed."""
        ...


class Retry(Exception):
    """A look could not be finished; try again later. The message is the reason."""


@dataclass(slots=True)
class WorkQueue(Generic[K]):
    """Keys waiting, running and delayed.

    `work` returns the seconds after which to look again, or None. Whatever it raises is a failure
    of that key only: it is logged with its type and tried again.
    """

    work: Callable[[K], Awaitable[float | None]]
    observer: Observer
    _ready: asyncio.Queue[K] = field(default_factory=asyncio.Queue)
    _waiting: set[K] = field(default_factory=set)
    _running: set[K] = field(default_factory=set)
    _again: set[K] = field(default_factory=set)
    _failures: dict[K, int] = field(default_factory=dict)
    _timers: dict[K, asyncio.TimerHandle] = field(default_factory=dict)
    _took: dict[K, float] = field(default_factory=dict)

    def add(self, key: K) -> None:
        """Look at `key` as soon as a worker is free."""
        if key in self._running:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.put_nowait(key)

    def add_soon(self, key: K) -> None:
        """Look at `key` in `SOON_SECONDS`, or later if its looks take long, however often it is
        asked for until then.
        """
        pause = min(SOON_MOST_SECONDS, self._took.get(key, 0.0) / SOON_SHARE)
        self.add_after(key, max(SOON_SECONDS, pause))

    def add_after(self, key: K, seconds: float) -> None:
        """Look at `key` in that time, or sooner if something else asks; the sooner timer wins."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None and timer.when() <= loop.time() + seconds:
            return
        if timer is not None:
            timer.cancel()
        self._timers[key] = loop.call_later(seconds, self._due, key)

    def _due(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    @property
    def idle(self) -> bool:
        """True when nothing waits or runs; timers do not count."""
        return not self._waiting and not self._running

    async def worker(self) -> None:
        """Work until cancelled. Run a few of these."""
        while True:
            key = await self._ready.get()
            self._waiting.discard(key)
            self._running.add(key)
            await self._look(key)
            self._running.discard(key)
            if key in self._again:
                self._again.discard(key)
                self.add_after(key, GATHER_SECONDS)

    async def _look(self, key: K) -> None:
        start = asyncio.get_running_loop().time()
        error: str | None = None
        try:
            after = await self.work(key)
            self._failures.pop(key, None)
            if after is None:
                self._took.pop(key, None)
            else:
                self._took[key] = asyncio.get_running_loop().time() - start
                self.add_after(key, after)
        except Exception as failure:  # one key's failure, whatever it is, must not end the worker
            error = type(failure).__name__
            count = self._failures[key] = self._failures.get(key, 0) + 1
            pause = min(MAX_BACKOFF_SECONDS, 0.5 * 2 ** min(count - 1, 10))
            self.add_after(key, pause)
            unexpected = not isinstance(failure, Retry)
            log.warning(
                "will try again in %.1f s: %s",
                pause,
                failure,
                extra={"key": str(key), "reason": error},
                exc_info=unexpected and count == 1,
            )
        self.observer.done(key, asyncio.get_running_loop().time() - start, error)

    def close(self) -> None:
        """Cancel all timers."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
