"""What the local APIs ask of the speculation loop: tokens in, tokens out. Must not know HTTP or gRPC."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sled_speculation.sampling import SamplingParams


class FinishReason(enum.Enum):
    """Why a generation ended."""

    END_TOKEN = "end_token"
    LENGTH = "length"
    """`max_tokens` were generated."""
    CONTEXT_FULL = "context_full"


class GenerationError(Exception):
    """A generation could not start or go on. `reason` is the wire's refusal name in lower case, or `unavailable`."""

    def __init__(self, reason: str, message: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to generate. `model` empty accepts whatever the verifier serves."""

    prompt_tokens: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    model: str = ""
    ignore_end_tokens: bool = False


@dataclass(frozen=True, slots=True)
class RoundStats:
    """What one round cost and brought; shape as vLLM's per-request speculation metrics."""

    draft_tokens: int
    accepted_tokens: int
    draft_seconds: float
    round_trip_seconds: float
    queue_seconds: float
    compute_seconds: float
    uplink_bytes: int
    downlink_bytes: int


@dataclass(frozen=True, slots=True)
class Delta:
    """The output tokens of one round (end tokens are not included). The last delta of a generation has `finish`."""

    tokens: tuple[int, ...]
    verified: bool = True
    """False when the draft model alone wrote these tokens because no verifier could be reached."""
    round: RoundStats | None = None
    finish: FinishReason | None = None


class TokenGenerator(Protocol):
    """The speculation loop as the APIs see it; shipped fake: `sled_edge.fake_generation.FakeGenerator`."""

    def generate(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        """Generate until an end token, `max_tokens` or a full context; closing the iterator frees everything at once.

        Raises:
            GenerationError: before the first delta or between two.
        """
        ...

    def ready(self) -> bool:
        """True when a request would be served now (verified, or unverified where the policy allows)."""
        ...

    def model_name(self) -> str:
        """Name of the target model, or of the configured one while no verifier was reached yet."""
        ...

    def context_tokens(self) -> int:
        """Tokens that prompt and output may have together."""
        ...

    def guides(self) -> bool | None:
        """Whether the target's output can be guided (`SamplingParams.guide`); None before a verifier was reached."""
        ...


class Tokenizer(Protocol):
    """The vocabulary that device and target share; shipped fake: `sled_edge.fake_generation.ByteTokenizer`."""

    fingerprint: bytes
    vocab_size: int
    end_tokens: tuple[int, ...]

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Token ids of a text; `special` turns marker texts such as `<|im_start|>` into their control tokens."""
        ...

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for; control tokens give b''. Not always whole UTF-8 characters."""
        ...

    def chat_prompt(self, messages: Sequence[dict[str, str]]) -> str:
        """The model's own chat template applied, ending where the assistant speaks; to be encoded with `special`."""
        ...
