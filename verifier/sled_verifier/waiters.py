"""Who waits for which verdict, and the timer of their deadlines: what every backend needs between its state and its
callers. Must not decide anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sled_verifier.refusal import Reason, Refusal
from sled_verifier.rounds import RoundVerdict


class Waiters:
    """One future for each sequence whose round has no verdict yet. Used from one event loop."""

    def __init__(self) -> None:
        self._futures: dict[int, asyncio.Future[RoundVerdict]] = {}

    def expect(self, key: int) -> asyncio.Future[RoundVerdict]:
        """From now on `settle` reaches whoever awaits `verdict` with this future."""
        future: asyncio.Future[RoundVerdict] = asyncio.get_running_loop().create_future()
        self._futures[key] = future
        return future

    async def verdict(
        self, key: int, future: asyncio.Future[RoundVerdict], withdraw: Callable[[int], None]
    ) -> RoundVerdict:
        """Wait for it; `withdraw` is called when the caller gives up first.

        Raises:
            Refusal: the round was refused.
        """
        try:
            return await future
        finally:
            if self._futures.get(key) is future:
                del self._futures[key]
                withdraw(key)

    def settle(self, key: int, result: RoundVerdict | Refusal) -> None:
        """A round ended; nobody may be waiting for it any more."""
        future = self._futures.pop(key, None)
        if future is None or future.done():
            return
        if isinstance(result, Refusal):
            future.set_exception(result)
        else:
            future.set_result(result)

    def closed(self, key: int) -> None:
        """The sequence is gone."""
        self.settle(key, Refusal(Reason.UNKNOWN_SEQUENCE, "the sequence was closed"))

    def refuse_all(self, refusal: Refusal) -> None:
        """Nothing will be settled any more."""
        for key in list(self._futures):
            self.settle(key, refusal)


class Expiry:
    """Calls `expire` when the next deadline is there. `clock` is the one that deadlines are given in."""

    def __init__(
        self,
        clock: Callable[[], float],
        next_deadline: Callable[[], float | None],
        expire: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._next_deadline = next_deadline
        self._expire = expire
        self._timer: asyncio.TimerHandle | None = None
        self._due_at = 0.0

    def arm(self) -> None:
        """Any deadline may have changed."""
        self.arm_by(self._next_deadline())

    def arm_by(self, deadline: float | None) -> None:
        """There is this one more. A timer that is due earlier stays: firing in vain is cheaper than setting it anew with every
        round.
        """
        if deadline is None or (self._timer is not None and self._due_at <= deadline):
            return
        self.cancel()
        delay = max(0.0, deadline - self._clock())
        self._due_at = deadline
        self._timer = asyncio.get_running_loop().call_later(delay, self._due)

    def cancel(self) -> None:
        """No call any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        self._timer = None
        self._expire()
        self.arm()
