"""How the next token is chosen from logits. Must not know where the logits came from."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass


class AcceptanceMode(enum.Enum):
    """How draft tokens are judged when sampling; all are lossless, greedy decoding makes them equal."""

    REJECTION = "rejection"
    """Accept with min(1, target/draft), recover from the clamped residual (Leviathan et al. 2023; Chen et al. 2023)."""
    MATCH = "match"
    """The target samples on its own; a draft token is accepted when it equals that sample. Output ignores the drafts."""


class InvalidSampling(ValueError):
    """A sampling parameter is outside its range; the message names the field and the range."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters of one sequence; ranges as in `sled.v1.Sampling`.

    Raises:
        InvalidSampling: a field is NaN or outside its range.
    """

    temperature: float = 0.0
    repetition_penalty: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    mode: AcceptanceMode = AcceptanceMode.REJECTION

    def __post_init__(self) -> None:
        checks = (
            (
                "temperature",
                self.temperature == 0 or 0.01 <= self.temperature <= 10,
                "0 or 0.01 to 10",
            ),
            ("repetition_penalty", 0.01 <= self.repetition_penalty <= 10, "0.01 to 10"),
            ("top_k", 0 <= self.top_k <= 1_000_000, "0 to 1,000,000"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("min_p", 0 <= self.min_p < 1, "0 to below 1"),
            ("seed", 0 <= self.seed < 2**64, "an unsigned 64-bit number"),
        )
        for name, good, allowed in checks:
            value = getattr(self, name)
            if not good or not math.isfinite(value):
                raise InvalidSampling(f"{name} is {value}; allowed: {allowed}")

    @property
    def greedy(self) -> bool:
        """True when the most probable token is always taken."""
        return self.temperature == 0
