"""How many tokens to draft in the next round: what maximises expected output tokens per second. No clock, no I/O.

SLED's dynamic drafting (arXiv 2506.09397) stops at the first unsure token; this controller also weighs what a token costs to
draft and to verify, what a round trip costs, and what the server asks for. It decides from the past and from tokens that
will be sent in any case, as `acceptance` requires of everything that decides about lengths.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sled_protocol.limits import WIRE_MAX_DRAFT_TOKENS
from sled_speculation.estimates import AcceptanceEstimate, CostEstimate
from sled_speculation.expectation import best_draft_length, expected_output_tokens_by_position

_FIRST_DRAFT_TOKENS = 2
_COMPARE_EVERY_ROUNDS = 24
_PROBE_SHARE = 0.02
_PROBE_ROUNDS = 16
_FORK_KEEP = 0.5


@dataclass(frozen=True, slots=True)
class DraftLengthSettings:
    """Bounds set by the user.

    Raises:
        ValueError: a value is outside its range.
    """

    max_tokens: int = 8
    """0 to 32; 0 = never draft."""
    min_confidence: float = 0.0
    """Stop after a token whose confidence is below this; 0 leaves it to the controller."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_tokens <= WIRE_MAX_DRAFT_TOKENS:
            raise ValueError(
                f"max_tokens is {self.max_tokens}; allowed: 0 to {WIRE_MAX_DRAFT_TOKENS}"
            )
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"min_confidence is {self.min_confidence}; allowed: 0 to 1")


class DraftLengthPolicy(Protocol):
    """What the speculation loop asks each round, in this order: `limit`, `keep_drafting` for every token, `observe`.

    A token that the verifier adds by itself is told to `observe_run` instead.
    """

    @property
    def declined(self) -> bool:
        """Whether the last round was chosen to be without a draft, for as long as things are as they are."""
        ...

    def limit(self, load_hint: int | None = None, remaining_tokens: int | None = None) -> int:
        """Most draft tokens of the next round; 0 = ask for a plain token."""
        ...

    def keep_drafting(self, confidences: Sequence[float]) -> bool:
        """Whether to draft one more token after those with these confidences."""
        ...

    def observe(
        self,
        draft_tokens: int,
        accepted: int,
        draft_seconds: float,
        round_trip_seconds: float,
        confidences: Sequence[float] = (),
        verified: int | None = None,
        step_seconds: float | None = None,
    ) -> None:
        """What the round brought and took."""
        ...

    def observe_run(self, seconds: float) -> None:
        """A plain token that nobody had to ask for, so many seconds after the one before it."""
        ...


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

    @property
    def acceptance_rate(self) -> float:
        """The present estimate of the acceptance per draft token."""
        return self._acceptance.rate()

    @property
    def declined(self) -> bool:
        """See `DraftLengthPolicy.declined`; a round without a draft that is only for comparison is none of these."""
        return self._declined and not self._compare

    def limit(self, load_hint: int | None = None, remaining_tokens: int | None = None) -> int:
        """Most draft tokens of the next round, 0 to `max_tokens`.

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
        self._probing = allowed > 0 and self._probe_due()
        self._limit = self._choose(allowed)
        if self._probing:
            self._limit = max(self._limit, 1)
        self._declined = self._limit == 0 < allowed
        return self._limit

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
        step_seconds: float | None = None,
    ) -> None:
        """Learn from one finished round.

        Args:
            draft_tokens: how many were sent.
            accepted: how many of them were kept.
            draft_seconds: time spent drafting them.
            round_trip_seconds: from sending the draft to the verdict.
            confidences: of the draft tokens, when the drafter has them.
            verified: how many the server looked at; None = all.
            step_seconds: of the step that verified it; None = not known. About what a plain token takes where none has to
                be asked for.

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
        if step_seconds is not None:
            self._cost.observe_plain(draft_tokens, min(step_seconds, round_trip_seconds))
        self._drafted_rounds += draft_tokens > 0
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
        self._cost.observe_plain(0, seconds)
        self._plain_rounds += 1
        self._plain_seconds += seconds

    def fork(self) -> DraftLengthController:
        """A controller for another sequence of the same device: same costs, half the trust in the acceptance."""
        other = copy.deepcopy(self)
        other._declined = False
        for estimate in (
            other._acceptance.overall,
            *other._acceptance.positions,
            *other._acceptance.classes,
        ):
            estimate.fade(_FORK_KEEP)
        return other


class FixedDraftLength:
    """Always the same draft length: for measurements, and as the baseline that the controller is compared with."""

    def __init__(self, draft_tokens: int) -> None:
        self._draft_tokens = DraftLengthSettings(max_tokens=draft_tokens).max_tokens

    @property
    def declined(self) -> bool:
        """Never: what is not drafted here is never chosen."""
        return False

    def limit(self, load_hint: int | None = None, remaining_tokens: int | None = None) -> int:
        """The fixed length; the server's hint and the tokens still wanted bound it."""
        bounds = [self._draft_tokens]
        if load_hint is not None:
            bounds.append(load_hint)
        if remaining_tokens is not None:
            bounds.append(remaining_tokens - 1)
        return max(0, min(bounds))

    def keep_drafting(self, confidences: Sequence[float]) -> bool:
        """True until the length is reached."""
        return len(confidences) < self._draft_tokens

    def observe(
        self,
        draft_tokens: int,
        accepted: int,
        draft_seconds: float,
        round_trip_seconds: float,
        confidences: Sequence[float] = (),
        verified: int | None = None,
        step_seconds: float | None = None,
    ) -> None:
        """Learns nothing."""

    def observe_run(self, seconds: float) -> None:
        """Learns nothing."""
