"""What a replica has done since start, in total and per draft model: the source of `GetStats`.
Keeps numbers only.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from sled_verifier.refusal import Reason
from sled_verifier.rounds import RoundVerdict

MAX_DRAFT_MODELS = 64
"""Pairs of draft model and device class told apart; devices choose both, so all further ones count
as `other`.
"""
OTHER = ("other", "other")

DraftModelKey = tuple[str, str]
"""(draft model, device class)."""


@dataclass(slots=True)
class DraftModelTally:
    """What the devices of one class achieve with one draft model."""

    devices: Counter[str] = field(default_factory=Counter)
    """Open streams of each connected device."""
    rounds: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    draft_micros: int = 0


@dataclass(slots=True)
class Tally:
    """Totals since start."""

    rounds: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    output_tokens: int = 0
    prompt_tokens: int = 0
    refusals: Counter[Reason] = field(default_factory=Counter)
    draft_models: dict[DraftModelKey, DraftModelTally] = field(default_factory=dict)

    def connect(self, draft_model: str, device_class: str, device_id: str) -> DraftModelKey:
        """A device's stream begins; returns the key to count it under."""
        key = (draft_model or "none", device_class or "none")
        if key not in self.draft_models and len(self.draft_models) >= MAX_DRAFT_MODELS:
            key = OTHER
        self.draft_models.setdefault(key, DraftModelTally()).devices[device_id] += 1
        return key

    def disconnect(self, key: DraftModelKey, device_id: str) -> None:
        """A device's stream ends."""
        devices = self.draft_models[key].devices
        devices[device_id] -= 1
        if devices[device_id] <= 0:
            del devices[device_id]

    def round_answered(self, key: DraftModelKey, verdict: RoundVerdict, draft_micros: int) -> None:
        """A round of a device got its verdict."""
        self.rounds += 1
        self.draft_tokens += verdict.verified
        self.accepted_tokens += verdict.accepted
        self.output_tokens += verdict.accepted + 1
        model = self.draft_models[key]
        model.rounds += 1
        model.draft_tokens += verdict.verified
        model.accepted_tokens += verdict.accepted
        model.draft_micros += draft_micros
