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

    def __post_init__(self) -> None:
        for name in ("draft_seconds_per_token", "round_trip_seconds", "verify_seconds_per_token"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{name} is {value}; allowed: finite, 0 or more")
        if self.round_trip_seconds == 0:
            raise ValueError("round_trip_seconds is 0; allowed: above 0")

    def seconds(self, draft_tokens: int) -> float:
        """Seconds of a round with that many draft tokens."""
        per_token = self.draft_seconds_per_token + self.verify_seconds_per_token
        return self.round_trip_seconds + draft_tokens * per_token


def goodput_tokens_per_second(acceptances: Sequence[float], cost: RoundCost) -> float:
    """Output tokens per second when drafting one token for each of `acceptances`; one plain round when empty."""
    return expected_output_tokens_by_position(acceptances) / cost.seconds(len(acceptances))


def best_draft_length(acceptances: Sequence[float], cost: RoundCost) -> int:
    """The draft length, 0 to len(acceptances), with the highest goodput; the shortest among equals.

    Each further token brings at most what the one before it brought and costs the same, so goodput rises to one peak and
    falls: the first length that does not improve ends the search.
    """
    best_rate = 1 / cost.seconds(0)
    survival, expected = 1.0, 1.0
    for length, acceptance in enumerate(acceptances, start=1):
        survival *= acceptance
        expected += survival
        rate = expected / cost.seconds(length)
        if rate <= best_rate:
            return length - 1
        best_rate = rate
    return len(acceptances)
