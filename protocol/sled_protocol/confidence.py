"""How sure a drafter is of each draft token, as it crosses the wire: one byte a token. Must not know what is done with it."""

from __future__ import annotations

from collections.abc import Sequence


class MalformedConfidences(ValueError):
    """Confidences do not fit their draft; the message is one sentence."""


def pack_confidences(confidences: Sequence[float]) -> bytes:
    """The blob for `sled.v1.Draft.draft_confidences`; values outside 0 to 1 are taken as the nearer bound."""
    return bytes(round(255 * min(max(confidence, 0.0), 1.0)) for confidence in confidences)


def unpack_confidences(blob: bytes, count: int) -> tuple[float, ...]:
    """The confidences of `count` draft tokens, each 0 to 1; none for an empty blob.

    Raises:
        MalformedConfidences: the blob has not one byte for each draft token.
    """
    if blob and len(blob) != count:
        raise MalformedConfidences(f"{count} draft tokens came with {len(blob)} confidences")
    return tuple(byte / 255 for byte in blob)
