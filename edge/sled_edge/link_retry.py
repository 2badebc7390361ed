"""What to do about each typed no, and how often. Pure; the wire's reasons in, reactions out."""

from __future__ import annotations

import enum
from collections.abc import Callable

from sled_edge.link_backoff import LinkTiming, jittered


class Reaction(enum.Enum):
    """What a refused round calls for."""

    REOPEN = "reopen"
    """The replica lost or never had the sequence: open it with its committed tokens, then send the same draft."""
    RESEND = "resend"
    """The replica is busy: wait, then send the same draft."""
    MOVE = "move"
    """The replica is going away: do the same on another one."""
    GIVE_UP = "give_up"
    """Sending it again cannot help."""


_REACTIONS = {
    "unknown_sequence": Reaction.REOPEN,
    "stale_prefix": Reaction.REOPEN,
    "duplicate_sequence": Reaction.REOPEN,
    "internal": Reaction.REOPEN,
    "queue_full": Reaction.RESEND,
    "deadline_exceeded": Reaction.RESEND,
    # The sequences of a stream that just broke may still be counted against this device.
    "too_many_sequences": Reaction.RESEND,
    "draining": Reaction.MOVE,
}
OPENS_ANEW = frozenset({"too_many_sequences"})
"""Reasons after which the sequence is not open, although the reaction is to send again."""


def reaction_to(reason: str) -> Reaction:
    """The reaction to a refusal of one sequence; unknown reasons are final."""
    return _REACTIONS.get(reason, Reaction.GIVE_UP)


class RetryBudget:
    """Counts what one round has used up. Every method says how long to wait, or None when nothing is left."""

    def __init__(self, timing: LinkTiming, uniform: Callable[[], float]) -> None:
        self._timing = timing
        self._uniform = uniform
        self._reopens = 0
        self._resends = 0

    def reopen(self) -> float | None:
        """One more opening, or one more lost stream. The first costs no wait."""
        if self._reopens >= self._timing.max_reopens:
            return None
        self._reopens += 1
        return 0.0 if self._reopens == 1 else self._pause(self._reopens - 2)

    def resend(self, retry_after_seconds: float) -> float | None:
        """One more try at a busy replica, not before it asked for."""
        if self._resends >= self._timing.max_resends:
            return None
        self._resends += 1
        wished = min(retry_after_seconds, self._timing.backoff_cap_seconds)
        return max(wished * (1.0 + 0.1 * self._uniform()), self._pause(self._resends - 1))

    def _pause(self, attempt: int) -> float:
        timing = self._timing
        return jittered(
            attempt, timing.backoff_base_seconds, timing.backoff_cap_seconds, self._uniform
        )
