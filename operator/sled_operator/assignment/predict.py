"""Expected output tokens per second of one draft model on one device class. Pure.

The catalogue's profile is where it starts; what the fleet measures pulls it, the more rounds the
further (a weighted mean in which the profile counts as `PRIOR_ROUNDS` rounds).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sled_operator.spec.drafts import Draft
from sled_speculation.expectation import (
    RoundCost,
    best_draft_length,
    expected_output_tokens,
    goodput_tokens_per_second,
)

PRIOR_ROUNDS = 500
DEFAULT_TOKENS_PER_SECOND = 10.0
NGRAM_TOKENS_PER_SECOND = 5_000.0


@dataclass(frozen=True, slots=True)
class Measured:
    """What the fleet reports of one draft model on one device class, since the counters began."""

    rounds: int
    draft_tokens: int
    accepted_tokens: int
    draft_micros: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a device of a class would get from a draft model."""

    draft_tokens_per_second: float
    acceptance: float
    """0 to 1."""
    draft_length: int
    output_tokens_per_second: float
    round_seconds: float
    joules_per_output_token: float | None
    """None when the profile names no energy."""


def predict(
    draft: Draft,
    device_class: str,
    max_draft_tokens: int,
    round_trip_seconds: float,
    measured: Mapping[tuple[str, str], Measured],
) -> Prediction:
    """The prediction at the best draft length of at most `max_draft_tokens`."""
    seen = measured.get((draft.model or draft.name, device_class))
    speed = _speed(draft, device_class, seen)
    acceptance = _acceptance(draft, seen)
    cost = RoundCost(1 / speed, max(round_trip_seconds, 1e-4))
    acceptances = [acceptance] * max_draft_tokens
    length = best_draft_length(acceptances, cost)
    outputs = expected_output_tokens(acceptance, length)
    millijoules = _millijoules(draft, device_class)
    joules = None if millijoules is None else millijoules / 1000 * length / outputs
    return Prediction(
        draft_tokens_per_second=speed,
        acceptance=acceptance,
        draft_length=length,
        output_tokens_per_second=goodput_tokens_per_second(acceptances[:length], cost),
        round_seconds=cost.seconds(length),
        joules_per_output_token=joules,
    )


def _profile_speed(draft: Draft, device_class: str) -> float:
    speeds = {speed.device_class: speed.tokens_per_second_milli for speed in draft.profile.speeds}
    milli = speeds.get(device_class, speeds.get("default"))
    if milli is not None:
        return milli / 1000
    return DEFAULT_TOKENS_PER_SECOND if draft.kind == "LlamaCpp" else NGRAM_TOKENS_PER_SECOND


def _speed(draft: Draft, device_class: str, seen: Measured | None) -> float:
    prior = _profile_speed(draft, device_class)
    if seen is None or not seen.draft_tokens or not seen.draft_micros:
        return prior
    observed = seen.draft_tokens / (seen.draft_micros / 1e6)
    return _blend(prior, observed, seen.rounds)


def _acceptance(draft: Draft, seen: Measured | None) -> float:
    prior = draft.profile.acceptance_permille / 1000
    if seen is None or not seen.draft_tokens:
        return prior
    observed = min(1.0, seen.accepted_tokens / seen.draft_tokens)
    return _blend(prior, observed, seen.rounds)


def _blend(prior: float, observed: float, rounds: int) -> float:
    weight = rounds / (rounds + PRIOR_ROUNDS)
    return prior + (observed - prior) * weight


def _millijoules(draft: Draft, device_class: str) -> int | None:
    energies = {speed.device_class: speed.millijoules_per_token for speed in draft.profile.speeds}
    return energies.get(device_class) or energies.get("default") or None
