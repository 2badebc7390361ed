"""Keeps one stream up: connects, reconnects, moves away from a draining replica. Must not know sequences or rounds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from sled_edge.link import LinkState, VerifierUnavailable
from sled_edge.link_backoff import LinkTiming, ReconnectPlan
from sled_edge.link_frames import DeviceFacts
from sled_edge.link_stream import DrainNotice, VerifierStream, handshake
from sled_edge.link_transport import Dialer, StreamEnded
from sled_edge.log import fields

log = logging.getLogger(__name__)

MAX_RETIRING = 8


class LinkObserver(Protocol):
    """Who is told about the connection; `sled_edge.metrics.EdgeMetrics` is one."""

    def verifier_connected(self, connected: bool) -> None:
        """Whether a verifier is connected now."""
        ...

    def count_reconnect(self) -> None:
        """A stream was replaced by another."""
        ...


class SilentObserver:
    """Listens to nothing."""

    def verifier_connected(self, connected: bool) -> None:
        """See `LinkObserver`."""

    def count_reconnect(self) -> None:
        """See `LinkObserver`."""


class Connector:
    """One background task that owns the current stream, and at most `MAX_RETIRING` that see drained ones off."""

    def __init__(
        self,
        dialer: Dialer,
        endpoints: Sequence[str],
        facts: Callable[[], DeviceFacts],
        timing: LinkTiming,
        uniform: Callable[[], float],
        observer: LinkObserver,
    ) -> None:
        self._observer = observer
        self._dialer = dialer
        self._endpoints = tuple(endpoints)
        self._facts = facts
        self._timing = timing
        self._uniform = uniform
        self._plan = ReconnectPlan(len(self._endpoints), timing, uniform)
        self._current: VerifierStream | None = None
        self._leaving: VerifierStream | None = None
        self._connected_at = 0.0
        self._trouble: VerifierUnavailable | None = None
        self._connections = 0
        self._failed_attempts = 0
        self._changed = asyncio.Event()
        self._closed = False
        self._told: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None
        self._retiring: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin connecting in the background."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="sled-link-connect")

    def state(self) -> LinkState:
        """See `Link.state`."""
        stream = self._usable()
        target = stream.target if stream is not None else None
        trouble = None if stream is not None else self._trouble
        return LinkState(target, trouble, self._connections, self._failed_attempts)

    async def stream(self, patience_seconds: float) -> VerifierStream:
        """The stream for new rounds; waits if there is none, or only one that drains.

        Raises:
            VerifierUnavailable: none within the time; carries the last trouble seen.
        """
        deadline = time.monotonic() + patience_seconds
        while True:
            stream = self._usable()
            if stream is not None and stream.drain is None:
                return stream
            left = deadline - time.monotonic()
            if left <= 0 or self._closed:
                raise self._unavailable()
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()

    async def close(self, flush_seconds: float) -> None:
        """End all streams and tasks; whoever waits for a stream is told at once."""
        self._closed = True
        self._changed.set()
        tasks = [task for task in (self._task, *self._retiring) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._current is not None:
            await self._current.close(flush_seconds)
            self._current = None

    def _usable(self) -> VerifierStream | None:
        stream = self._current
        return stream if stream is not None and stream.ended is None else None

    def _unavailable(self) -> VerifierUnavailable:
        if self._trouble is not None:
            trouble = self._trouble
            return VerifierUnavailable(trouble.reason, str(trouble), trouble.retry_after_seconds)
        return VerifierUnavailable("unavailable", "no verifier is connected yet", 1.0)

    async def _run(self) -> None:
        while True:
            await self._leave()
            wait_seconds = await self._connect()
            if wait_seconds > 0:
                await asyncio.sleep(wait_seconds)

    async def _leave(self) -> None:
        """Wait until the current stream is no place for new rounds, and as long as a polite device waits then."""
        stream = self._current
        if stream is None:
            return
        await stream.unsettled.wait()
        pause_seconds = 0.0
        fresh = stream is not self._leaving
        if fresh:
            self._leaving = stream
            pause_seconds = self._plan.left(time.monotonic() - self._connected_at)
        if stream.ended is not None:
            await self._drop(stream, stream.ended)
        elif fresh and stream.drain is not None:
            where = fields(replica=stream.target.replica, within=stream.drain.within_seconds)
            log.info("the verifier drains, moving its sequences", extra=where)
            pause_seconds = max(pause_seconds, self._move_delay(stream.drain))
        if pause_seconds > 0:
            await asyncio.sleep(pause_seconds)

    async def _drop(self, stream: VerifierStream, reason: StreamEnded) -> None:
        self._current = None
        self._observer.verifier_connected(False)
        self._note(reason, stream.target.endpoint)
        await stream.close()

    def _move_delay(self, drain: DrainNotice) -> float:
        spread = min(self._timing.move_jitter_seconds, drain.within_seconds / 4)
        return spread * self._uniform()

    async def _connect(self) -> float:
        """One attempt at one endpoint; returns the seconds to wait before the next step."""
        endpoint = self._endpoints[self._plan.endpoint()]
        try:
            async with asyncio.timeout(self._timing.connect_seconds):
                fresh = await self._dial(endpoint)
        except TimeoutError:
            return self._failed(StreamEnded("unavailable", "no answer to Hello in time"), endpoint)
        except StreamEnded as reason:
            return self._failed(reason, endpoint)
        self._plan.connected()
        await self._adopt(fresh)
        return 0.0

    async def _dial(self, endpoint: str) -> VerifierStream:
        frames = await self._dialer.dial(endpoint)
        try:
            return await handshake(frames, self._facts(), endpoint)
        except BaseException:
            await frames.close()
            raise

    async def _adopt(self, fresh: VerifierStream) -> None:
        old, self._current = self._current, fresh
        self._connected_at = time.monotonic()
        self._connections += 1
        self._failed_attempts = 0
        self._trouble = None
        self._changed.set()
        self._observer.verifier_connected(True)
        if self._connections > 1:
            self._observer.count_reconnect()
        target = fresh.target
        self._told.pop(target.endpoint, None)
        where = fields(endpoint=target.endpoint, replica=target.replica, model=target.model_name)
        log.info("connected to a verifier", extra=where)
        if old is None:
            return
        if old.ended is not None or len(self._retiring) >= MAX_RETIRING:
            await old.close()
            return
        task = asyncio.create_task(self._retire(old), name="sled-link-retire")
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _retire(self, old: VerifierStream) -> None:
        """Let the rounds under way on a drained stream finish there, as long as it allows."""
        try:
            await old.settle(old.drain.within_seconds if old.drain is not None else 0.0)
        finally:
            await old.close()

    def _failed(self, reason: StreamEnded, endpoint: str) -> float:
        self._failed_attempts += 1
        self._note(reason, endpoint)
        return max(self._plan.failed(reason.reason), self._wished(reason))

    def _wished(self, reason: StreamEnded) -> float:
        wished = reason.retry_after_seconds if len(self._endpoints) == 1 else 0.0
        return min(wished, self._timing.slow_seconds)

    def _note(self, reason: StreamEnded, endpoint: str) -> None:
        retry_after = max(1.0, reason.retry_after_seconds)
        self._trouble = VerifierUnavailable(reason.reason, str(reason), retry_after)
        self._changed.set()
        where = fields(endpoint=endpoint, reason=reason.reason, detail=str(reason))
        # An absence of hours is told once.
        level = logging.DEBUG if self._told.get(endpoint) == reason.reason else logging.WARNING
        self._told[endpoint] = reason.reason
        log.log(level, "no stream to a verifier", extra=where)
