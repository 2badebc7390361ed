"""Quantiles over the last minute, for stats that autoscalers read. Keeps a bounded number of
samples; must not read a clock.
"""

from __future__ import annotations

from collections import deque


class Window:
    """Samples of the last `seconds`, at most `capacity` of them (the newest)."""

    def __init__(self, seconds: float = 60.0, capacity: int = 4096) -> None:
        self._seconds = seconds
        self._samples: deque[tuple[float, float]] = deque(maxlen=capacity)

    def add(self, value: float, now: float) -> None:
        """Record one sample at time `now` (seconds, not falling)."""
        self._samples.append((now, value))

    def quantiles(self, shares: tuple[float, ...], now: float) -> tuple[float, ...]:
        """The values below which these shares (0 to 1) of the recent samples lie; zeros without
        samples.
        """
        while self._samples and self._samples[0][0] < now - self._seconds:
            self._samples.popleft()
        if not self._samples:
            return tuple(0.0 for _ in shares)
        ordered = sorted(value for _, value in self._samples)
        last = len(ordered) - 1
        return tuple(ordered[round(share * last)] for share in shares)
