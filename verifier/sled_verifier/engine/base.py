"""What the batched backend asks of a model runtime. Engines know nothing of drafts, devices or sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Facts about a loaded target model that never change."""

    model_name: str
    engine: str
    vocab_size: int
    context_tokens: int
    """Tokens one sequence may hold."""
    slots: int
    """Sequences that may be resident at once."""
    max_step_tokens: int
    """Tokens one step may take, over all sequences."""
    tokenizer_fingerprint: bytes
    end_tokens: tuple[int, ...]
    exactness: str
    """`bit-invariant`, `fp32` or `approximate`: see docs/reference/exactness.md."""
    guides: bool = False
    """Output can be guided (`SamplingParams.guide`)."""
    rectangular: bool = False
    """A step takes about as long as if each of its sequences had as many tokens as the longest has, and slots that are no
    neighbours take a pass over the weights each.
    """
    even_steps: bool = False
    """The engine prepares itself for each number of tokens a step has for the first time, so there should be few."""


@dataclass(frozen=True, slots=True)
class StepItem:
    """The part of one step that belongs to one sequence.

    `tokens` are appended at `start_position` (which must equal the slot's present length). The engine returns logits for
    the last `logit_rows` of them: row i holds the logits of the token that follows `tokens[len(tokens) - logit_rows + i]`.
    """

    slot: int
    start_position: int
    tokens: tuple[int, ...]
    logit_rows: int


class EngineError(RuntimeError):
    """The runtime failed; the named slots hold undefined content and must be released."""

    def __init__(self, message: str, slots: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.slots = slots


class Engine(Protocol):
    """A loaded target model with `slots` independent key-value caches.

    Not thread-safe: one thread owns it. Slots are numbers below `info.slots`; the caller says which are in use. A slot is
    empty at start and after `truncate(slot, 0)`.
    """

    info: EngineInfo

    def step(self, items: Sequence[StepItem]) -> list[Logits]:
        """Run one ragged batch; at most one item per slot, `max_step_tokens` tokens in all.

        Returns one float32 array [item.logit_rows, vocab_size] per item, valid after the next call too.

        Raises:
            EngineError: nothing of this step may be used.
        """
        ...

    def truncate(self, slot: int, length: int) -> None:
        """Forget all tokens of the slot from position `length` on; O(1) in the model's size. 0 empties the slot."""
        ...

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Make the empty slot `target` hold the first `length` tokens of `source`, bit for bit."""
        ...

    def tokenizer_gguf(self) -> bytes:
        """The vocabulary as a GGUF file without tensors."""
        ...

    def close(self) -> None:
        """Free all memory; the engine may not be used afterwards."""
        ...
