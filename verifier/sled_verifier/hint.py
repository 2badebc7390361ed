"""Which draft length pays at the present load, from what steps were seen to cost. Pure arithmetic;
must not know sequences.

While the engine has time to spare a longer draft costs nobody anything, and each device judges by
its own round trip. Once the engine is the bottleneck every draft token takes time from somebody,
and the best length is the one with the highest goodput (Liu et al. 2024) for a step that costs a +
b * tokens.
"""

from __future__ import annotations

from sled_speculation.expectation import RoundCost, best_draft_length

MEMORY = 0.98
"""Weight that all older steps keep at each new one: an average over about the last fifty."""
SATURATED_SHARE = 0.75
"""Share of the time in steps from which on the engine counts as the bottleneck."""
MIN_STEPS = 20


class DraftHint:
    """Learns from each step and each verdict; `draft_tokens` is 0 to `max_draft_tokens`."""

    def __init__(self, max_draft_tokens: int) -> None:
        self._max = max_draft_tokens
        self._steps = 0
        self._weight = 0.0
        self._tokens = 0.0
        self._seconds = 0.0
        self._tokens_squared = 0.0
        self._tokens_seconds = 0.0
        self._rounds = 0.0
        self._interval = 0.0
        self._last_end: float | None = None
        self._accepted = 0.0
        self._judged = 0.0

    def observe(self, tokens: int, rounds: int, seconds: float, now: float) -> None:
        """One step over `tokens` tokens, `rounds` of whose sequences had a round, that ended at
        `now`.
        """
        self._steps += 1
        interval = seconds if self._last_end is None else max(seconds, now - self._last_end)
        self._last_end = now
        for name, value in (
            ("_weight", 1.0),
            ("_tokens", tokens),
            ("_seconds", seconds),
            ("_tokens_squared", tokens * tokens),
            ("_tokens_seconds", tokens * seconds),
            ("_rounds", rounds),
            ("_interval", interval),
        ):
            setattr(self, name, getattr(self, name) * MEMORY + value)

    def judged(self, accepted: int, verified: int) -> None:
        """One verdict: the tokens up to the first rejected one were looked at."""
        self._accepted = self._accepted * MEMORY + accepted
        self._judged = self._judged * MEMORY + min(accepted + 1, verified)

    @property
    def draft_tokens(self) -> int:
        """The recommended draft length."""
        if self._steps < MIN_STEPS or self._judged == 0 or self._interval == 0:
            return self._max
        if self._seconds / self._interval < SATURATED_SHARE:
            return self._max
        cost = self._cost()
        if cost is None:
            return self._max
        acceptance = min(1.0, self._accepted / self._judged)
        return best_draft_length([acceptance] * self._max, cost)

    def _cost(self) -> RoundCost | None:
        """What one more draft token of every sequence adds to a step; None while steps have been
        too alike to tell.
        """
        mean = self._tokens / self._weight
        spread = self._tokens_squared / self._weight - mean * mean
        if spread <= 0.01 * mean * mean:
            return None
        mean_seconds = self._seconds / self._weight
        slope = (self._tokens_seconds / self._weight - mean * mean_seconds) / spread
        slope = min(max(slope, 0.0), mean_seconds / mean)
        rounds = max(1.0, self._rounds / self._weight)
        fixed = mean_seconds - slope * (mean - rounds)
        if fixed <= 0:
            return None
        return RoundCost(0.0, fixed, slope * rounds)
