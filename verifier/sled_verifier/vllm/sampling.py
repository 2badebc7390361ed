"""What of a device's sampling vLLM cannot do, as refusals. Must not import vLLM."""

from __future__ import annotations

from sled_speculation.sampling import SamplingParams
from sled_verifier.refusal import Reason, Refusal

MAX_TEMPERATURE = 2.0
"""vLLM's own limit; sled.v1 allows more."""


def check_sampling(sampling: SamplingParams) -> None:
    """Refuse what vLLM cannot do with drafts, or at all.

    Raises:
        Refusal: INVALID_SAMPLING.
    """
    if sampling.min_p > 0 and not sampling.greedy:
        raise Refusal(
            Reason.INVALID_SAMPLING,
            f"sampling.min_p is {sampling.min_p}; this replica's engine allows only 0",
        )
    if sampling.temperature > MAX_TEMPERATURE:
        raise Refusal(
            Reason.INVALID_SAMPLING,
            f"sampling.temperature is {sampling.temperature:g}; this replica's engine allows at "
            f"most {MAX_TEMPERATURE:g}",
        )


def guide_refusal() -> Refusal:
    """What every round of an unguidable sequence is told."""
    return Refusal(
        Reason.INVALID_SAMPLING,
        "sampling.guide: the engine cannot follow this JSON schema, or not on from the output so far",
    )
