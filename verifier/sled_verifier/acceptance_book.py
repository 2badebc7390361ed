"""How likely draft tokens are to be accepted: what past rounds say about a draft model, a device, a
sequence. Must not decide anything.

Three levels lean on each other, each on the one above until it has evidence of its own: a draft
model in general (also by position, and by what the device said of its own confidence), the device
with whatever is asked of it, and the text that is being written just now.
"""

from __future__ import annotations

import bisect
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

PRIOR = 0.7
"""Acceptance that is assumed of an unknown draft model; hopeful, so that it is tried."""
TEXT_PRIOR_TRIALS = 16
"""A text's own rate counts half after so many trials, as long as nothing is known of how much texts differ: rates of 0.6 and 0.9
are common, which is a spread that so many trials tell from chance.
"""
SPREAD_TEXTS = 32
"""So many texts say as much about how much texts differ as that belief does."""
SPREAD_MEMORY = 256
"""Texts over about which it is learnt."""
MOST_PRIOR_TRIALS = 400
"""What is known of a device is not more certain than that."""
DEVICE_PRIOR_TRIALS = 32
UNSEEN_TEXT_KEEP = 0.9
UNSEEN_DEVICE_KEEP = 0.97
"""Share of the evidence that stays after a round of which nothing was verified."""
MAX_DEVICES = 4096
MAX_DRAFT_MODELS = 64
OTHER_MODELS = "other"
MAX_POSITIONS = 16
"""Later positions count as the last of them."""
SHAPE_ROUNDS = 32
"""Rounds of a draft model after which its shape over positions is worked out again."""
CONFIDENCE_EDGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.995)


@dataclass(slots=True)
class Rate:
    """A success rate over about the last `memory` trials."""

    memory: float
    successes: float = 0.0
    trials: float = 0.0

    def add(self, success: bool) -> None:
        """One more trial."""
        keep = 1 - 1 / self.memory
        self.successes = self.successes * keep + success
        self.trials = self.trials * keep + 1

    def add_run(self, trials: int, successes: int) -> None:
        """So many trials at once, of which the first were successes and the others not."""
        forget = 1 / self.memory
        keep = (1 - forget) ** trials
        gained = self.memory * (1 - (1 - forget) ** successes)
        self.successes = self.successes * keep + gained * (1 - forget) ** (trials - successes)
        self.trials = self.trials * keep + self.memory * (1 - keep)

    def fade(self, keep: float) -> None:
        """Keep this share of the evidence."""
        self.successes *= keep
        self.trials *= keep

    def mean(self, prior: float, prior_trials: float) -> float:
        """The expected rate, given a belief that is worth `prior_trials` trials."""
        return (self.successes + prior * prior_trials) / (self.trials + prior_trials)


@dataclass(slots=True)
class Spread:
    """How much the rates of texts differ beyond chance, from texts that are over: their intraclass correlation, by the method of
    moments. A text of n trials with correlation c has n p (1 - p) (1 + (n - 1) c) as the variance of its successes.
    """

    correlations: float = 0.0
    weight: float = 0.0

    def add(self, trials: int, successes: int, rate: float) -> None:
        """A text is over; `rate` was expected of it. One trial tells nothing of a spread."""
        if trials < 2 or not 0 < rate < 1:
            return
        off = (successes - trials * rate) ** 2 / (trials * rate * (1 - rate))
        # Inverse variance, about: of few trials the estimate is all noise.
        weight = ((trials - 1) / (trials - 1 + TEXT_PRIOR_TRIALS)) ** 2
        keep = 1 - 1 / SPREAD_MEMORY
        self.correlations = self.correlations * keep + weight * (off - 1) / (trials - 1)
        self.weight = self.weight * keep + weight

    def prior_trials(self) -> float:
        """Trials after which a text's own rate counts half; many where texts are alike."""
        belief = SPREAD_TEXTS / (TEXT_PRIOR_TRIALS + 1)
        correlation = (self.correlations + belief) / (self.weight + SPREAD_TEXTS)
        return 1 / min(max(correlation, 1 / MOST_PRIOR_TRIALS), 0.5) - 1


@dataclass(slots=True)
class _DraftModel:
    overall: Rate = field(default_factory=lambda: Rate(2000))
    positions: list[Rate] = field(
        default_factory=lambda: [Rate(1000) for _ in range(MAX_POSITIONS)]
    )
    classes: list[Rate] = field(
        default_factory=lambda: [Rate(1000) for _ in range(len(CONFIDENCE_EDGES) + 1)]
    )

    spread: Spread = field(default_factory=Spread)
    shape: tuple[float, ...] = ()
    """Log odds by position, above or below those of `rate`; of some rounds ago."""
    unshaped: int = 0

    def rate(self) -> float:
        return self.overall.mean(PRIOR, 8)

    def log_odds(self, draft_tokens: int) -> list[float]:
        """By position, relative to the model's own rate."""
        if not self.shape or self.unshaped >= SHAPE_ROUNDS:
            rate = self.rate()
            level = _logit(rate)
            self.shape = tuple(_logit(p.mean(rate, 16)) - level for p in self.positions)
            self.unshaped = 0
        last = self.shape[-1]
        return [*self.shape[:draft_tokens], *([last] * (draft_tokens - MAX_POSITIONS))]

    def at_confidence(self, confidence: float) -> float:
        belief = (self.rate() + confidence) / 2
        return self.classes[_class_of(confidence)].mean(belief, 8)


@dataclass(slots=True)
class _Writer:
    """One open sequence."""

    model: _DraftModel
    device: Rate
    own: Rate
    expected: float = PRIOR
    """The device's rate when the text began."""
    trials: int = 0
    successes: int = 0

    def device_rate(self) -> float:
        return self.device.mean(self.model.rate(), DEVICE_PRIOR_TRIALS)

    def rate(self) -> float:
        return self.own.mean(self.device_rate(), self.model.spread.prior_trials())


class AcceptanceBook:
    """Acceptance of every open sequence. Unknown keys have the prior."""

    def __init__(self) -> None:
        self._models: dict[str, _DraftModel] = {}
        self._devices: OrderedDict[str, Rate] = OrderedDict()
        self._writers: dict[int, _Writer] = {}
        self._unknown = _Writer(_DraftModel(), Rate(1), Rate(1))
        self._all = Rate(500)

    def open(self, key: int, device_id: str, draft_model: str) -> None:
        """A sequence begins."""
        if draft_model not in self._models and len(self._models) >= MAX_DRAFT_MODELS:
            draft_model = OTHER_MODELS
        model = self._models.setdefault(draft_model, _DraftModel())
        device = self._devices.setdefault(device_id, Rate(200))
        self._devices.move_to_end(device_id)
        if len(self._devices) > MAX_DEVICES:
            self._devices.popitem(last=False)
        writer = _Writer(model, device, Rate(50))
        writer.expected = writer.device_rate()
        self._writers[key] = writer

    def close(self, key: int) -> None:
        """It is over; unknown keys are ignored."""
        writer = self._writers.pop(key, None)
        if writer is not None:
            writer.model.spread.add(writer.trials, writer.successes, writer.expected)

    def observe(
        self, key: int, verified: int, accepted: int, confidences: Sequence[float] = ()
    ) -> None:
        """One verdict; tokens after the first rejected one tell nothing."""
        writer = self._writers.get(key)
        if writer is None:
            return
        if not verified:
            # Who is not verified cannot prove better: a bad stretch must not count for ever.
            writer.own.fade(UNSEEN_TEXT_KEEP)
            writer.device.fade(UNSEEN_DEVICE_KEEP)
        model = writer.model
        model.unshaped += 1
        told = min(verified, accepted + 1)
        writer.trials += told
        writer.successes += accepted
        for rate in (self._all, writer.own, writer.device, model.overall):
            rate.add_run(told, accepted)
        for index in range(told):
            model.positions[min(index, MAX_POSITIONS - 1)].add(index < accepted)
        for index, confidence in enumerate(confidences[:told]):
            model.classes[_class_of(confidence)].add(index < accepted)

    def overall(self) -> float:
        """Acceptance per draft token, whoever drafted it."""
        return self._all.mean(PRIOR, 8)

    def by_position(self, key: int, draft_tokens: int) -> list[float]:
        """Acceptance of each draft token given all before it, from the past alone.

        The draft model gives the shape over positions, the sequence the level.
        """
        writer = self._writers.get(key, self._unknown)
        level = _logit(writer.rate())
        return [_logistic(level + odds) for odds in writer.model.log_odds(draft_tokens)]

    def by_confidence(self, key: int, confidences: Sequence[float]) -> list[float]:
        """The same from what the drafter says of each token; learnt, for few drafters know
        themselves.
        """
        model = self._writers.get(key, self._unknown).model
        return [model.at_confidence(confidence) for confidence in confidences]

    def sizes(self) -> tuple[int, int, int]:
        """Devices, draft models and open sequences that are remembered."""
        return len(self._devices), len(self._models), len(self._writers)

    def at_best(self, key: int) -> float:
        """Acceptance in a stretch where the drafter is as sure as it gets."""
        writer = self._writers.get(key, self._unknown)
        sure = [c.mean(PRIOR, 8) for c in writer.model.classes if c.trials >= 16]
        return max([writer.rate(), *sure])


def _class_of(confidence: float) -> int:
    return bisect.bisect_right(CONFIDENCE_EDGES, confidence)


def _logit(rate: float) -> float:
    bounded = min(max(rate, 0.001), 0.999)
    return math.log(bounded / (1 - bounded))


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value))
