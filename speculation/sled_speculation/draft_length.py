"""How many tokens to draft in the next round: what maximises expected output tokens per second. No clock, no I/O.

SLED's dynamic drafting (arXiv 2506.09397) stops at the first unsure token; this controller also weighs what a token costs to
draft and to verify, what a round trip costs, and what the server asks for. It decides from the past and from tokens that
will be sent in any case, as `acceptance` requires of everything that decides about lengths.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

from sled_speculation.draft_length_policy import RUN_TOKENS, DraftLengthSettings
from sled_speculation.estimates import AcceptanceEstimate, CostEstimate, Level
from sled_speculation.expectation import best_draft_length, expected_output_tokens_by_position

_FIRST_DRAFT_TOKENS = 2
_COMPARE_EVERY_ROUNDS = 24
_PROBE_SHARE = 0.02
_PROBE_ROUNDS = 16
_FORK_KEEP = 0.5
_TRIAL_TOKENS = 4
_TRIAL_ROUNDS = 192
_FIRST_TRIAL_ROUND = 12
_TRIAL_ODDS = 1.5
_VAIN_TRIAL_ROUNDS = 2000


class DraftLengthController:
    """Chooses the draft length of one sequence; deterministic in what it is told.

    Not thread-safe. `fork` starts another sequence with what this one has learnt.
    """

    def __init__(self, settings: DraftLengthSettings | None = None) -> None:
        self._settings = settings or DraftLengthSettings()
        self._acceptance = AcceptanceEstimate()
        self._cost = CostEstimate()
        self._limit = 0
        self._probing = False
        self._declined = False
        self._compare = False
        self._drafted_rounds = 0
        self._plain_rounds = 0
        self._plain_seconds = 0.0
        self._served, self._token = Level(), Level()
        self._trying = False
        self._rounds_without_run = _TRIAL_ROUNDS - _FIRST_TRIAL_ROUND

    @property
    def acceptance_rate(self) -> float:
        """The present estimate of the acceptance per draft token."""
        return self._acceptance.rate()

    @property
    def plain_tokens(self) -> int:
        """See `DraftLengthPolicy.plain_tokens`."""
        if self._trying:
            return _TRIAL_TOKENS
        return RUN_TOKENS if self._declined and not self._compare else 0

    def limit(self, load_hint: int | None = None, remaining_tokens: int | None = None) -> int:
        """Most draft tokens of the next round, 0 to `max_tokens`.

        Now and then it is 0 for a trial: what a token takes that needs no asking can only be learnt by not asking.

        Args:
            load_hint: the last verdict's `max_draft_tokens_hint`; None before the first verdict. Never exceeded: 0 means
                that a draft would cost other devices more than it brings, so there is no probing either.
            remaining_tokens: output tokens that are still wanted; more than that less one cannot be used.
        """
        allowed = self._settings.max_tokens
        if load_hint is not None:
            allowed = min(allowed, load_hint)
        if remaining_tokens is not None:
            allowed = min(allowed, remaining_tokens - 1)
        allowed = max(allowed, 0)
        self._trying = allowed > 0 and self._trial_due()
        if self._trying:
            self._limit, self._declined = 0, False
            return 0
        self._probing = allowed > 0 and self._probe_due()
        self._limit = self._choose(allowed)
        if self._probing:
            self._limit = max(self._limit, 1)
        self._declined = self._limit == 0 < allowed
        return self._limit

    def _trial_due(self) -> bool:
        """True when plain tokens that need no asking could be the quicker ones, and nobody knows. Where a round is with the server
        for longer than a token takes on average they are not, since they would wait as long.
        """
        close = self._served.mean < _TRIAL_ODDS * self._token.mean
        return close and self._rounds_without_run >= _TRIAL_ROUNDS

    def _choose(self, allowed: int) -> int:
        cost = self._cost.cost()
        if cost is None:
            return min(allowed, _FIRST_DRAFT_TOKENS)
        # keep_drafting ends a doubtful draft early, so the limit is set for a stretch that goes well.
        chosen = best_draft_length([self._acceptance.at_best(i) for i in range(allowed)], cost)
        if self._compare:
            # What a draft token adds to the verification shows only when lengths differ.
            return 0 if self._drafted_rounds == 1 else chosen // 2
        return chosen

    def _probe_due(self) -> bool:
        """True when a one-token draft costs at most `_PROBE_SHARE` of the time since the last draft.

        Acceptance is forgotten by itself; the time that drafting takes can only be learnt by drafting.
        """
        cost = self._cost.cost()
        if cost is None or self._plain_rounds < _PROBE_ROUNDS:
            return False
        price = cost.seconds(1) - cost.seconds(0)
        return price <= _PROBE_SHARE * self._plain_seconds

    def keep_drafting(self, confidences: Sequence[float]) -> bool:
        """Whether one more token raises the expected goodput of the round.

        Never true at the limit of this round, nor after a token below `min_confidence`.
        """
        drafted = len(confidences)
        if drafted >= self._limit:
            return False
        if drafted and confidences[-1] < self._settings.min_confidence:
            return False
        cost = self._cost.cost()
        if cost is None or (self._probing and not drafted):
            return True
        if not drafted:
            # What one token brings is not the question: see best_draft_length.
            rates = [self._acceptance.at_position(index) for index in range(self._limit)]
            self._declined = best_draft_length(rates, cost) == 0
            return not self._declined
        rates = [self._acceptance.at_confidence(confidence) for confidence in confidences]
        stop = expected_output_tokens_by_position(rates)
        # Each further token brings at most what the one before it brought and costs the same, so one ahead is enough.
        gain = math.prod(rates) * self._acceptance.at_position(drafted)
        return (stop + gain) * cost.seconds(drafted) > stop * cost.seconds(drafted + 1)

    def observe(
        self,
        draft_tokens: int,
        accepted: int,
        draft_seconds: float,
        round_trip_seconds: float,
        confidences: Sequence[float] = (),
        verified: int | None = None,
        served_seconds: float = 0.0,
    ) -> None:
        """Learn from one finished round.

        Args:
            draft_tokens: how many were sent.
            accepted: how many of them were kept.
            draft_seconds: time spent drafting them.
            round_trip_seconds: from sending the draft to the verdict.
            confidences: of the draft tokens, when the drafter has them.
            verified: how many the server looked at; None = all.
            served_seconds: the part of the round trip in which the server had the draft, waiting included; 0 = not known.

        Raises:
            ValueError: counts that contradict each other, or a time that is negative or not finite.
        """
        looked_at = draft_tokens if verified is None else verified
        if not 0 <= accepted <= looked_at <= draft_tokens:
            raise ValueError(
                f"accepted {accepted}, verified {looked_at} and draft_tokens {draft_tokens} "
                "must not decrease in this order"
            )
        for name, value in (
            ("draft_seconds", draft_seconds),
            ("round_trip_seconds", round_trip_seconds),
        ):
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{name} is {value}; allowed: finite, 0 or more")
        # A drafter that found nothing to propose tells nothing; only a choice not to draft lets the evidence fade.
        if draft_tokens or self._declined:
            self._acceptance.observe(looked_at, accepted, confidences)
        self._cost.observe(draft_tokens, draft_seconds, round_trip_seconds)
        self._served.observe(served_seconds)
        if draft_tokens:
            self._token.observe((draft_seconds + round_trip_seconds) / (accepted + 1))
        self._drafted_rounds += draft_tokens > 0
        # A verifier that does not go on by itself is hardly asked again; one that does is heard of in observe_run.
        self._rounds_without_run = (
            -_VAIN_TRIAL_ROUNDS if self._trying else self._rounds_without_run + 1
        )
        self._compare = draft_tokens > 0 and self._drafted_rounds % _COMPARE_EVERY_ROUNDS == 1
        if draft_tokens:
            self._plain_rounds, self._plain_seconds = 0, 0.0
        else:
            self._plain_rounds += 1
            self._plain_seconds += round_trip_seconds

    def observe_run(self, seconds: float) -> None:
        """See `DraftLengthPolicy.observe_run`."""
        if self._declined:
            self._acceptance.observe(0, 0)
        self._cost.observe_plain(seconds)
        self._rounds_without_run = 0
        self._plain_rounds += 1
        self._plain_seconds += seconds

    def fork(self) -> DraftLengthController:
        """A controller for another sequence of the same device: same costs, half the trust in the acceptance."""
        other = copy.deepcopy(self)
        other._declined = other._trying = False
        for estimate in (
            other._acceptance.overall,
            *other._acceptance.positions,
            *other._acceptance.classes,
        ):
            estimate.fade(_FORK_KEEP)
        return other
