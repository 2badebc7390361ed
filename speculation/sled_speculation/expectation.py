"""What speculation brings on average: closed forms for tokens per round and tokens per second. Pure arithmetic.

Sources: Leviathan et al. 2023 ("Fast inference from transformers via speculative decoding", equation 1); goodput as the
quantity to maximise from Liu et al. 2024 ("Optimizing speculative decoding for serving large language models using goodput").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


def expected_output_tokens(acceptance: float, draft_tokens: int) -> float:
    """Output tokens per round when each draft token is accepted with the same probability, independently.

    (1 - a^(k+1)) / (1 - a), Leviathan et al. 2023, equation 1; k + 1 when a is 1.

    Raises:
        ValueError: `acceptance` is not 0 to 1, or `draft_tokens` is negative.
    """
    if not 0 <= acceptance <= 1:
        raise ValueError(f"acceptance is {acceptance}; allowed: 0 to 1")
    if draft_tokens < 0:
        raise ValueError(f"draft_tokens is {draft_tokens}; allowed: 0 or more")
    return expected_output_tokens_by_position([acceptance] * draft_tokens)


def expected_output_tokens_by_position(acceptances: Sequence[float]) -> float:
    """Output tokens per round: 1 + a1 + a1 a2 + …, one probability for each draft token given all before it."""
    survival = 1.0
    expected = 1.0
    for acceptance in acceptances:
        survival *= acceptance
        expected += survival
    return expected


@dataclass(frozen=True, slots=True)
class RoundCost:
    """Seconds that one round takes, as a straight line in the number of draft tokens.

    Raises:
        ValueError: a value is negative or not finite, or a round without drafts would take no time.
    """

    draft_seconds_per_token: float
    round_trip_seconds: float
    """Network both ways, queue, and a verification without draft tokens."""
    verify_seconds_per_token: float = 0.0
    """What each further draft token adds to the verification (and to the transfer)."""
    plain_seconds: float | None = None
    """A token without a draft, where that takes no way there and back; None = a round trip."""

    def __post_init__(self) -> None:
        for name in ("draft_seconds_per_token", "round_trip_seconds", "verify_seconds_per_token"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{name} is {value}; allowed: finite, 0 or more")
        for name in ("round_trip_seconds", "plain_seconds"):
            if getattr(self, name) == 0:
                raise ValueError(f"{name} is 0; allowed: above 0")

    def seconds(self, draft_tokens: int) -> float:
        """Seconds of a round with that many draft tokens."""
        if draft_tokens == 0 and self.plain_seconds is not None:
            return self.plain_seconds
        per_token = self.draft_seconds_per_token + self.verify_seconds_per_token
        return self.round_trip_seconds + draft_tokens * per_token


def goodput_tokens_per_second(acceptances: Sequence[float], cost: RoundCost) -> float:
    """Output tokens per second when drafting one token for each of `acceptances`; one plain round when empty."""
    return expected_output_tokens_by_position(acceptances) / cost.seconds(len(acceptances))


def best_draft_length(acceptances: Sequence[float], cost: RoundCost) -> int:
    """The draft length, 0 to len(acceptances), with the highest goodput; the shortest among equals.

    All are compared: where a plain token needs no way there and back, one draft token may lose and four may win.
    """
    best, best_rate = 0, 1 / cost.seconds(0)
    survival, expected = 1.0, 1.0
    for length, acceptance in enumerate(acceptances, start=1):
        survival *= acceptance
        expected += survival
        rate = expected / cost.seconds(length)
        if rate > best_rate:
            best, best_rate = length, rate
    return best
