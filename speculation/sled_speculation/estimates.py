"""What a device has learnt about its own rounds: acceptance and time. Forgets slowly, so that it can change its mind."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field

from sled_speculation.expectation import RoundCost

_CONFIDENCE_EDGES = (0.1, 0.3, 0.5, 0.7, 0.85, 0.95, 0.99)


@dataclass(slots=True)
class BetaEstimate:
    """A success rate as the mean of a Beta distribution whose evidence fades towards a prior."""

    successes: float = 0.0
    trials: float = 0.0

    def fade(self, keep: float) -> None:
        """Keep this share of the evidence."""
        self.successes *= keep
        self.trials *= keep

    def observe(self, success: bool) -> None:
        """One more trial; the last fifty or so count."""
        self.fade(_TRIAL_KEEP)
        self.successes += success
        self.trials += 1

    def mean(self, prior: float, prior_trials: float) -> float:
        """The expected rate, given a prior belief that is worth `prior_trials` trials."""
        return (self.successes + prior * prior_trials) / (self.trials + prior_trials)


@dataclass(slots=True)
class AcceptanceEstimate:
    """How likely a draft token is accepted, given that all before it were: overall, by position, by confidence.

    Positions and confidence classes lean on the overall rate until they have evidence of their own, and the overall rate
    leans on an optimistic prior. Everything fades with every observed round, drafted or not: a device that stopped drafting
    after a bad stretch grows hopeful again and tries.
    """

    prior: float = 0.7
    prior_trials: float = 4.0
    overall: BetaEstimate = field(default_factory=BetaEstimate)
    positions: list[BetaEstimate] = field(default_factory=list)
    classes: list[BetaEstimate] = field(
        default_factory=lambda: [BetaEstimate() for _ in range(len(_CONFIDENCE_EDGES) + 1)]
    )

    def observe(self, verified: int, accepted: int, confidences: Sequence[float] = ()) -> None:
        """One round: of `verified` draft tokens the first `accepted` were kept; tokens after a rejection tell nothing."""
        for estimate in (self.overall, *self.positions, *self.classes):
            estimate.fade(_ROUND_KEEP)
        for index in range(min(verified, accepted + 1)):
            success = index < accepted
            while len(self.positions) <= index:
                self.positions.append(BetaEstimate())
            self.overall.observe(success)
            self.positions[index].observe(success)
            if index < len(confidences):
                self.classes[_confidence_class(confidences[index])].observe(success)

    def rate(self) -> float:
        """The overall acceptance rate per draft token."""
        return self.overall.mean(self.prior, self.prior_trials)

    def at_position(self, index: int) -> float:
        """The rate of draft token `index`."""
        if index >= len(self.positions):
            return self.rate()
        return self.positions[index].mean(self.rate(), self.prior_trials)

    def at_confidence(self, confidence: float) -> float:
        """The rate of a token that its drafter gave this probability; learnt, because few drafters know themselves."""
        belief = (self.rate() + min(max(confidence, 0.0), 1.0)) / 2
        return self.classes[_confidence_class(confidence)].mean(belief, self.prior_trials)

    def at_best(self, index: int) -> float:
        """The rate of draft token `index` in a stretch where the drafter is as sure as it gets."""
        known = [c.mean(self.rate(), self.prior_trials) for c in self.classes if c.trials >= 1]
        return max([self.at_position(index), *known])


def _confidence_class(confidence: float) -> int:
    return bisect.bisect_right(_CONFIDENCE_EDGES, confidence)


@dataclass(slots=True)
class Level:
    """A mean over the last ten or so values."""

    mean: float = 0.0
    _values: int = 0

    def observe(self, value: float) -> None:
        """One more; an outlier counts as a few times the mean."""
        self._values += 1
        if self._values > _FIRST_ROUNDS:
            value = min(value, _OUTLIER * self.mean)
        self.mean += max(1 / self._values, _LEVEL_STEP) * (value - self.mean)


@dataclass(slots=True)
class CostEstimate:
    """Seconds per drafted token, and round-trip seconds as a straight line in the number of draft tokens.

    The slope comes from the differences between consecutive rounds of different length, so that a link that changes its
    pace is not mistaken for a costly verification, and it fades towards 0 when lengths do not differ. The level follows
    within about ten rounds. One outlier moves nothing far.
    """

    draft_seconds_per_token: float | None = None
    _plain: Level = field(default_factory=Level)
    _draft_age_rounds: int = 0
    _rounds: int = 0
    _mean_tokens: float = 0.0
    _mean_seconds: float = 0.0
    _last_tokens: int = 0
    _last_residual: float = 0.0
    _difference_squares: float = 0.0
    _difference_products: float = 0.0

    def observe(self, draft_tokens: int, draft_seconds: float, round_trip_seconds: float) -> None:
        """One round; a round without draft tokens tells the round trip only."""
        self._draft_age_rounds += 1
        if draft_tokens > 0:
            self._observe_draft(draft_seconds / draft_tokens)
        seconds = max(round_trip_seconds, _SMALLEST_SECONDS)
        if self._rounds:
            slope, intercept = self._line()
            expected = intercept + slope * draft_tokens
            seconds = min(seconds, _OUTLIER * expected)
            self._observe_difference(draft_tokens, (seconds - expected) / expected, expected, slope)
        self._rounds += 1
        step = max(1 / self._rounds, _LEVEL_STEP)
        self._mean_tokens += step * (draft_tokens - self._mean_tokens)
        self._mean_seconds += step * (seconds - self._mean_seconds)
        self._last_tokens = draft_tokens

    def observe_plain(self, seconds: float) -> None:
        """A token that nobody had to ask for."""
        self._plain.observe(max(seconds, _SMALLEST_SECONDS))

    def _observe_draft(self, seconds_per_token: float) -> None:
        known = self.draft_seconds_per_token
        if known is None:
            known = seconds_per_token
        # The absolute floor lets an estimate leave zero. What was measured long ago gives way at once.
        measured = min(seconds_per_token, _OUTLIER * known + _SMALLEST_SECONDS)
        step = 1 - _DRAFT_KEEP**self._draft_age_rounds
        self.draft_seconds_per_token = known + step * (measured - known)
        self._draft_age_rounds = 0

    def _observe_difference(
        self, draft_tokens: int, surprise: float, expected: float, slope: float
    ) -> None:
        """Two rounds in a row that deviated alike say that the slope is right, whatever the level is."""
        # At first nothing is surprising.
        bound = _SURPRISE if self._rounds > _FIRST_ROUNDS else 1.0
        residual = min(max(surprise, -bound), bound) * expected
        tokens = draft_tokens - self._last_tokens
        seconds = residual - self._last_residual + slope * tokens
        self._difference_squares = self._difference_squares * _SLOPE_KEEP + tokens * tokens
        self._difference_products = self._difference_products * _SLOPE_KEEP + tokens * seconds
        self._last_residual = residual

    def cost(self) -> RoundCost | None:
        """What a round costs; None before the first draft was timed."""
        if self.draft_seconds_per_token is None:
            return None
        slope, intercept = self._line()
        plain = min(self._plain.mean, intercept) or None
        return RoundCost(self.draft_seconds_per_token, intercept, slope, plain)

    def _line(self) -> tuple[float, float]:
        """Seconds per draft token and seconds of a plain round; neither negative, the second above 0."""
        slope = max(0.0, self._difference_products / (self._difference_squares + _RIDGE))
        if self._mean_tokens > 0:
            slope = min(slope, _MOST_SLOPE * self._mean_seconds / self._mean_tokens)
        return slope, max(self._mean_seconds - slope * self._mean_tokens, _SMALLEST_SECONDS)


_TRIAL_KEEP = 0.98
_ROUND_KEEP = 0.99
_SLOPE_KEEP = 0.996
_SMALLEST_SECONDS = 1e-6
_OUTLIER = 4.0
_SURPRISE = 0.5
_FIRST_ROUNDS = 8
_LEVEL_STEP = 0.1
_DRAFT_KEEP = 0.8
_RIDGE = 0.25
_MOST_SLOPE = 0.95
