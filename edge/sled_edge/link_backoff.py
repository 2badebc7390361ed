"""When and where to connect next. Pure: no clock, no network; chance comes from outside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sled_protocol.limits import MAX_DEADLINE_MS

SLOW_REASONS = frozenset(
    {
        "tokenizer_mismatch",
        "unauthenticated",
        "unsupported_revision",
        "unknown_model",
        "malformed",
    }
)
"""Troubles that only a person can end; they are retried at the slow pace, to notice that somebody did."""


@dataclass(frozen=True, slots=True)
class LinkTiming:
    """Every bound of the link."""

    connect_seconds: float = 5.0
    """Dial and handshake together."""
    round_seconds: float = 10.0
    """Deadline of a round, sent with the draft."""
    prefill_seconds_per_token: float = 0.1
    """Added to the deadline for each token that a newly opened sequence makes the verifier read."""
    grace_seconds: float = 5.0
    """Beyond the deadline, before a verdict counts as lost: the verifier says no by itself before that."""
    backoff_base_seconds: float = 0.1
    backoff_cap_seconds: float = 5.0
    slow_seconds: float = 15.0
    max_reopens: int = 6
    """Times one round may open its sequence anew, or lose its stream."""
    max_resends: int = 16
    """Times one round may be sent again because the verifier is busy."""
    move_jitter_seconds: float = 0.25
    """A drained verifier's devices spread their moves over this time, or a quarter of what the drain allows."""
    stable_seconds: float = 5.0
    """A stream that ends sooner counts as a failed attempt: a verifier that dies at once is not stormed."""
    close_seconds: float = 2.0

    def deadline_seconds(self, fresh_tokens: int) -> float:
        """How long to wait for a verdict when the verifier has `fresh_tokens` tokens to read first."""
        wished = self.round_seconds + self.prefill_seconds_per_token * fresh_tokens
        return min(wished, MAX_DEADLINE_MS / 1000)


def jittered(
    attempt: int, base_seconds: float, cap_seconds: float, uniform: Callable[[], float]
) -> float:
    """Exponential back-off with half of it random, so that a fleet does not return in step.

    `attempt` counts from 0; the result lies in [half, whole] of min(cap, base * 2**attempt).
    """
    whole = min(cap_seconds, base_seconds * 2.0 ** min(attempt, 32))
    return whole * (0.5 + 0.5 * uniform())


class ReconnectPlan:
    """Walks the endpoints in order, without pause inside a pass and with back-off between passes."""

    def __init__(self, count: int, timing: LinkTiming, uniform: Callable[[], float]) -> None:
        self._count = count
        self._timing = timing
        self._uniform = uniform
        self._next = 0
        self._failures = 0

    def endpoint(self) -> int:
        """Index of the endpoint to try now."""
        return self._next

    def connected(self) -> None:
        """The endpoint took us. It is tried last when its stream is over, since that is how streams are left."""
        self._advance()

    def left(self, lived_seconds: float) -> float:
        """A stream is over after so long; returns the seconds to wait before the next attempt."""
        if lived_seconds >= self._timing.stable_seconds:
            self._failures = 0
            return 0.0
        self._failures += 1
        return self._pause()

    def failed(self, reason: str) -> float:
        """The endpoint did not take us; returns the seconds to wait before the next attempt."""
        self._failures += 1
        self._advance()
        if reason in SLOW_REASONS:
            return jittered(0, self._timing.slow_seconds, self._timing.slow_seconds, self._uniform)
        return self._pause()

    def _pause(self) -> float:
        passes, within = divmod(self._failures, self._count)
        if within:
            return 0.0
        timing = self._timing
        return jittered(
            passes - 1, timing.backoff_base_seconds, timing.backoff_cap_seconds, self._uniform
        )

    def _advance(self) -> None:
        self._next = (self._next + 1) % self._count
