"""How many generations run at once and how many may wait. Must not know what a generation does."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class SeatsTaken(Exception):
    """All seats are taken and the waiting line is full, or the wait was too long."""


class Seats:
    """A counting gate with a bounded first-come line. `limit` is asked anew each time; at least one seat exists."""

    def __init__(self, limit: Callable[[], int], max_waiting: int, wait_seconds: float) -> None:
        self._limit = limit
        self._max_waiting = max_waiting
        self._wait_seconds = wait_seconds
        self._taken = 0
        self._line: deque[asyncio.Future[None]] = deque()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def taken(self) -> int:
        """Seats in use."""
        return self._taken

    @property
    def waiting(self) -> int:
        """Callers in line."""
        return len(self._line)

    @asynccontextmanager
    async def seat(self) -> AsyncIterator[None]:
        """Hold one seat.

        Raises:
            SeatsTaken: see there.
        """
        await self._sit()
        try:
            yield
        finally:
            self._stand()

    async def wait_empty(self) -> None:
        """Wait until nobody sits; new ones may sit down right after."""
        await self._empty.wait()

    async def _sit(self) -> None:
        if self._taken < max(1, self._limit()) and not self._line:
            self._take()
            return
        if len(self._line) >= self._max_waiting:
            raise SeatsTaken("all sequences of this device are in use and its waiting line is full")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            async with asyncio.timeout(self._wait_seconds):
                await turn
        except TimeoutError:
            self._step_out(turn)
            raise SeatsTaken("no sequence of this device became free in time") from None
        except asyncio.CancelledError:
            self._step_out(turn)
            raise

    def _step_out(self, turn: asyncio.Future[None]) -> None:
        """Leave the line; a seat given in the same moment goes to the next one."""
        if turn in self._line:
            self._line.remove(turn)
        elif turn.done() and not turn.cancelled():
            self._stand()

    def _take(self) -> None:
        self._taken += 1
        self._empty.clear()

    def _stand(self) -> None:
        self._taken -= 1
        while self._line and self._taken < max(1, self._limit()):
            turn = self._line.popleft()
            if not turn.done():
                self._take()
                turn.set_result(None)
        if self._taken == 0:
            self._empty.set()
