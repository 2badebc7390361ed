"""What decides how many tokens to draft: the interface, its bounds, and the policy that never changes. No clock, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sled_protocol.limits import WIRE_MAX_DRAFT_TOKENS

RUN_TOKENS = 16
"""Tokens that the verifier may write by itself where drafts do not pay; then the device looks again whether they do."""


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
    def plain_tokens(self) -> int:
        """How many tokens shall come without drafts from this round on, whatever the hint; 0 where the next round is open."""
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
        served_seconds: float = 0.0,
    ) -> None:
        """What the round brought and took."""
        ...

    def observe_run(self, seconds: float) -> None:
        """A plain token that nobody had to ask for, so many seconds after the one before it."""
        ...


class FixedDraftLength:
    """Always the same draft length: for measurements, and as the baseline that the controller is compared with."""

    def __init__(self, draft_tokens: int) -> None:
        self._draft_tokens = DraftLengthSettings(max_tokens=draft_tokens).max_tokens

    @property
    def plain_tokens(self) -> int:
        """None: what is not drafted here was never chosen."""
        return 0

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
        served_seconds: float = 0.0,
    ) -> None:
        """Learns nothing."""

    def observe_run(self, seconds: float) -> None:
        """Learns nothing."""
