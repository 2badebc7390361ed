"""How much one replica takes on: the numbers behind every bound. Holds values only; `config` makes
it from a file.
"""

from __future__ import annotations

from dataclasses import dataclass

from sled_verifier.batcher import StepBudget


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one replica.

    Raises:
        ValueError: the longest round would not fit a step.
    """

    step_tokens: int = 256
    prefill_chunk_tokens: int = 48
    """Prompt tokens of one step while devices are decoding."""
    max_queue: int = 256
    max_sequences_per_device: int = 4
    max_sequences: int = 1024
    max_draft_tokens: int = 16
    idle_seconds: float = 300.0
    """A sequence without a frame for this long is forgotten."""
    default_deadline_seconds: float = 10.0

    def __post_init__(self) -> None:
        if self.step_tokens < 2 * (self.max_draft_tokens + 1):
            raise ValueError(
                f"step_tokens is {self.step_tokens}; allowed: at least twice max_draft_tokens + 1, "
                f"{2 * (self.max_draft_tokens + 1)}"
            )

    def budget(self, engine_step_tokens: int) -> StepBudget:
        """The step budget on an engine that takes at most `engine_step_tokens` a step.

        Raises:
            ValueError: the engine's steps cannot hold the longest round.
        """
        tokens = min(self.step_tokens, engine_step_tokens)
        longest = self.max_draft_tokens + 1
        if tokens < longest:
            raise ValueError(
                f"the engine takes {tokens} tokens a step, which cannot hold {longest} of one round"
            )
        reserve = min(self.prefill_chunk_tokens, tokens // 4, tokens - longest)
        return StepBudget(tokens, self.prefill_chunk_tokens, reserve)
