"""When the draft model writes alone, and when to try the verifier again. Pure: time and link state come in as values."""

from __future__ import annotations

from dataclasses import dataclass

from sled_edge.config import OfflinePolicy
from sled_edge.link import LinkState

HOPELESS_REASONS = frozenset({"tokenizer_mismatch"})
"""Troubles that mean a wrong configuration, not an absent verifier: draft-only text would hide them."""

HOPEFUL_ATTEMPTS = 3
"""Failed attempts to connect after which a new request does not wait for the next one."""


@dataclass(frozen=True, slots=True)
class OfflineTiming:
    """How patient a generation is with an absent verifier."""

    fresh_patience_seconds: float = 2.0
    """A request that has produced nothing yet, when it must be refused in the end."""
    running_patience_seconds: float = 30.0
    """A text that would have to be broken off."""
    draft_only_patience_seconds: float = 2.0
    """Either of them, when the draft model takes over."""
    retry_base_seconds: float = 2.0
    retry_cap_seconds: float = 60.0
    """A connected verifier that gave no verdict is asked again after the base, then twice as long, up to the cap."""


def serves_alone(policy: OfflinePolicy, drafter_generates: bool) -> bool:
    """True when text may be written without a verifier."""
    return policy is OfflinePolicy.DRAFT_ONLY and drafter_generates


def serves_now(state: LinkState, alone: bool) -> bool:
    """True when a new request would get text."""
    if state.target is not None:
        return True
    return alone and not _hopeless(state)


def _hopeless(state: LinkState) -> bool:
    if state.target is not None or state.trouble is None:
        return False
    return state.trouble.reason in HOPELESS_REASONS


class OfflineSwitch:
    """One generation's way between verified and draft-only writing."""

    def __init__(self, alone: bool, timing: OfflineTiming) -> None:
        self._alone = alone
        self._timing = timing
        self._offline = False
        self._left_connections = -1
        self._retry_at = 0.0
        self._retry_seconds = timing.retry_base_seconds

    def patience_seconds(self, started: bool) -> float:
        """How long a round may wait for any verifier."""
        if self._alone:
            return self._timing.draft_only_patience_seconds
        timing = self._timing
        return timing.running_patience_seconds if started else timing.fresh_patience_seconds

    def ask_verifier(self, state: LinkState, now: float) -> bool:
        """Whether the next tokens should come from a verified round; False = from the draft model alone."""
        if not self._alone or _hopeless(state):
            return True
        if not self._offline:
            return state.target is not None or state.failed_attempts < HOPEFUL_ATTEMPTS
        if state.target is None:
            return False
        return state.connections != self._left_connections or now >= self._retry_at

    def failed(self, state: LinkState, reason: str, now: float) -> bool:
        """A round found no verifier; returns whether the draft model goes on alone."""
        if not self._alone or reason in HOPELESS_REASONS:
            return False
        self._offline = True
        self._left_connections = state.connections
        self._retry_at = now + self._retry_seconds
        self._retry_seconds = min(2 * self._retry_seconds, self._timing.retry_cap_seconds)
        return True

    def verified(self) -> None:
        """A verdict arrived."""
        self._offline = False
        self._retry_seconds = self._timing.retry_base_seconds
