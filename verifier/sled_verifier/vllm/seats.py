"""Who may be in vLLM at once: a bounded number of seats, given and taken. Pure bookkeeping; must not
know rounds or vLLM.

vLLM manages the memory of the sequences it holds; it cannot know that one of them rests because its
device is silent. So resting sequences are given up here: when others need a seat or memory, and
after a while in any case. Coming back is cheap, because vLLM's prefix cache keeps what nobody has
overwritten.
"""

from __future__ import annotations

from dataclasses import dataclass

REST_SECONDS = 15.0
"""A sequence whose device has been silent for so long gives up its memory unasked."""
SLICE_SECONDS = 0.5
"""A sequence keeps its seat for so long, so that two that share a seat do not take turns each step.
"""


@dataclass(slots=True)
class Seat:
    """One sequence in vLLM. `resting_since` is None while it computes or a round of it is due."""

    taken_at: float
    ready: bool = False
    resting_since: float | None = None


class Seats:
    """At most `count` sequences at once."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.evictions = 0
        """Seats taken from resting sequences because something else needed the place."""
        self._seats: dict[int, Seat] = {}

    def __contains__(self, key: int) -> bool:
        return key in self._seats

    def __len__(self) -> int:
        return len(self._seats)

    def ready(self, key: int) -> bool:
        """True when the sequence can take a draft."""
        seat = self._seats.get(key)
        return seat is not None and seat.ready

    @property
    def computing(self) -> bool:
        """True when some sequence's prefix is being computed."""
        return any(not seat.ready for seat in self._seats.values())

    def take(self, key: int, now: float) -> None:
        """Seat a sequence; there must be a free seat.

        Raises:
            LookupError: there is none.
        """
        if len(self._seats) >= self.count:
            raise LookupError("no free seat")
        self._seats[key] = Seat(now)

    def leave(self, key: int) -> bool:
        """Free a sequence's seat; False when it has none."""
        return self._seats.pop(key, None) is not None

    def set_ready(self, key: int, *, ready: bool) -> None:
        """The prefix is computed, or has to be computed again; unknown keys are ignored."""
        seat = self._seats.get(key)
        if seat is not None:
            seat.ready = ready

    def mark(self, key: int, *, busy: bool, now: float) -> None:
        """A round of the sequence is due or running (`busy`), or it waits for its device."""
        seat = self._seats.get(key)
        if seat is None:
            return
        if busy:
            seat.resting_since = None
        elif seat.resting_since is None:
            seat.resting_since = now

    def free_or_evict(self, now: float) -> tuple[bool, int | None]:
        """Make room for one more: (True, None) when there is a free seat, (True, key) after taking
        the seat of the sequence that has rested longest, (False, None) when all are in use.
        """
        if len(self._seats) < self.count:
            return True, None
        victim = self._longest_resting(now - SLICE_SECONDS)
        if victim is None:
            return False, None
        self._evict(victim)
        return True, victim

    def relieve(self) -> int | None:
        """Give up the sequence that has rested longest because memory is short; None when none
        rests.
        """
        victim = self._longest_resting(float("inf"))
        if victim is not None:
            self._evict(victim)
        return victim

    def weary(self, now: float) -> list[int]:
        """Free and return the sequences that have rested for `REST_SECONDS`."""
        gone = [
            key
            for key, seat in self._seats.items()
            if seat.ready
            and seat.resting_since is not None
            and now - seat.resting_since >= REST_SECONDS
        ]
        for key in gone:
            del self._seats[key]
        return gone

    def _longest_resting(self, taken_before: float) -> int | None:
        resting = [
            (seat.resting_since, key)
            for key, seat in self._seats.items()
            if seat.ready and seat.resting_since is not None and seat.taken_at <= taken_before
        ]
        return min(resting)[1] if resting else None

    def _evict(self, key: int) -> None:
        del self._seats[key]
        self.evictions += 1
