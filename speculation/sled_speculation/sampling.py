"""How the next token is chosen from logits. Must not know where the logits came from."""

from __future__ import annotations

import enum
import json
import math
from dataclasses import dataclass

from sled_protocol.limits import MAX_SCHEMA_BYTES


class AcceptanceMode(enum.Enum):
    """How draft tokens are judged when sampling; all are lossless, greedy decoding makes them equal."""

    REJECTION = "rejection"
    """Accept with min(1, target/draft), recover from the clamped residual (Leviathan et al. 2023; Chen et al. 2023)."""
    MATCH = "match"
    """The target samples on its own; a draft token is accepted when it equals that sample. Output ignores the drafts."""


class InvalidSampling(ValueError):
    """A sampling parameter is outside its range; the message names the field and the range."""


@dataclass(frozen=True, slots=True)
class Guide:
    """What the whole output must be: a JSON value that a schema allows, or with None any JSON object.

    Says nothing about whether an engine can follow the schema; engines refuse what they cannot.

    Raises:
        InvalidSampling: the schema is too long, or is no JSON object.
    """

    json_schema: str | None = None
    """JSON text."""

    def __post_init__(self) -> None:
        if self.json_schema is None:
            return
        size = len(self.json_schema.encode())
        if size > MAX_SCHEMA_BYTES:
            raise InvalidSampling(
                f"guide.json_schema has {size} bytes; allowed: {MAX_SCHEMA_BYTES}"
            )
        try:
            schema = json.loads(self.json_schema)
        except (ValueError, RecursionError):
            raise InvalidSampling(
                "guide.json_schema is not JSON, or is nested too deeply"
            ) from None
        if not isinstance(schema, dict):
            raise InvalidSampling("guide.json_schema is no JSON object")


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
    guide: Guide | None = None
    """Only a target that guides output knows what it allows: drafters pass over it."""

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
