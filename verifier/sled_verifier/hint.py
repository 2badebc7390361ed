"""Which draft length pays at the present load, from what steps were seen to cost. Pure arithmetic;
must not know sequences.

While the engine has time to spare a longer draft costs nobody anything, and each device judges by
its own round trip. Once the engine is the bottleneck every draft token takes time from somebody,
and the best length is the one with the highest goodput (Liu et al. 2024) for a step that costs a +
b * tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from sled_speculation.expectation import RoundCost, best_draft_length

MEMORY = 0.98
"""Weight that all older steps keep at each new one: an average over about the last fifty."""
SATURATED_SHARE = 0.75
"""Share of the time in steps from which on the engine counts as the bottleneck."""
MIN_STEPS = 20


@dataclass(slots=True)
class _Sums:
    """Decaying sums over steps that held rounds only."""

    weight: float = 0.0
    tokens: float = 0.0
    seconds: float = 0.0
    tokens_squared: float = 0.0
    tokens_seconds: float = 0.0
    rounds: float = 0.0

    def add(self, tokens: int, rounds: int, seconds: float) -> None:
        self.weight = self.weight * MEMORY + 1
        self.tokens = self.tokens * MEMORY + tokens
        self.seconds = self.seconds * MEMORY + seconds
        self.tokens_squared = self.tokens_squared * MEMORY + tokens * tokens
        self.tokens_seconds = self.tokens_seconds * MEMORY + tokens * seconds
        self.rounds = self.rounds * MEMORY + rounds

    def cost(self) -> RoundCost | None:
        """What one more draft token of every sequence adds to a step, by least squares; None while
        steps have been too alike to tell.
        """
        if not self.weight:
            return None
        mean = self.tokens / self.weight
        spread = self.tokens_squared / self.weight - mean * mean
        if spread <= 0.01 * mean * mean:
            return None
        mean_seconds = self.seconds / self.weight
        slope = (self.tokens_seconds / self.weight - mean * mean_seconds) / spread
        slope = min(max(slope, 0.0), mean_seconds / mean)
        rounds = max(1.0, self.rounds / self.weight)
        fixed = mean_seconds - slope * (mean - rounds)
        return RoundCost(0.0, fixed, slope * rounds) if fixed > 0 else None


class DraftHint:
    """Learns from each step and each verdict; `draft_tokens` is 0 to `max_draft_tokens`."""

    def __init__(self, max_draft_tokens: int) -> None:
        self._max = max_draft_tokens
        self._steps = 0
        self._sums = _Sums()
        self._busy = 0.0
        self._elapsed = 0.0
        self._last_end: float | None = None
        self._accepted = 0.0
        self._judged = 0.0

    def observe(self, tokens: int, rounds: int, seconds: float, now: float) -> None:
        """One step that ended at `now`: so many tokens, of which `rounds` sequences had their
        drafts verified; 0 rounds for a step that (also) computed prompts, which says nothing
        about drafts.
        """
        self._steps += 1
        interval = seconds if self._last_end is None else max(seconds, now - self._last_end)
        self._last_end = now
        self._busy = self._busy * MEMORY + seconds
        self._elapsed = self._elapsed * MEMORY + interval
        if rounds:
            self._sums.add(tokens, rounds, seconds)

    def judged(self, accepted: int, verified: int) -> None:
        """One verdict: the tokens up to the first rejected one were looked at."""
        if verified:
            self._accepted = self._accepted * MEMORY + accepted
            self._judged = self._judged * MEMORY + min(accepted + 1, verified)

    @property
    def draft_tokens(self) -> int:
        """The recommended draft length."""
        if self._steps < MIN_STEPS or not self._judged or not self._elapsed:
            return self._max
        if self._busy / self._elapsed < SATURATED_SHARE:
            return self._max
        cost = self._sums.cost()
        if cost is None:
            return self._max
        acceptance = min(1.0, self._accepted / self._judged)
        return best_draft_length([acceptance] * self._max, cost)
