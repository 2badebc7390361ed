"""What a replica has done since start, in total and per draft model: the source of `GetStats`.
Keeps numbers only.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from sled_verifier.refusal import Reason
from sled_verifier.rounds import RoundVerdict

MAX_DRAFT_MODELS = 64
"""Pairs of draft model and device class told apart; devices choose both, so all further ones count
as `other`.
"""
MAX_REVISIONS = 8
"""Revisions of one pair told apart. A further one takes the place of the oldest that no connected
device has; when there is none, it counts as `other`.
"""
OTHER = "other"


class DraftModelKey(NamedTuple):
    """What is counted apart; each part is a device's own word."""

    draft_model: str
    device_class: str
    revision: str = ""


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

    def connect(self, greeted: DraftModelKey, device_id: str) -> DraftModelKey:
        """A device's stream begins; returns the key to count it under."""
        model, device_class = greeted.draft_model or "none", greeted.device_class or "none"
        pairs = {key[:2] for key in self.draft_models}
        if (model, device_class) not in pairs and len(pairs) >= MAX_DRAFT_MODELS:
            model, device_class = OTHER, OTHER
        key = self._room(DraftModelKey(model, device_class, greeted.revision))
        self.draft_models.setdefault(key, DraftModelTally()).devices[device_id] += 1
        return key

    def _room(self, key: DraftModelKey) -> DraftModelKey:
        """`key`, or where it counts when its pair has as many revisions as may be."""
        known = [each for each in self.draft_models if each[:2] == key[:2]]
        if key in known or len(known) < MAX_REVISIONS:
            return key
        idle = next((each for each in known if not self.draft_models[each].devices), None)
        if idle is None:
            return key._replace(revision=OTHER)
        del self.draft_models[idle]
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
