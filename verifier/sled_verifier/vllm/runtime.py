"""What the vLLM backend asks of the runtime, one step at a time, as values. Must not import vLLM.

The real one is `internals.VllmRuntime`; `fake.FakeRuntime` is the one for tests.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Protocol

from sled_protocol.distribution import DraftDistribution
from sled_speculation.sampling import SamplingParams
from sled_verifier.engine.base import EngineInfo


@dataclass(frozen=True, slots=True)
class Start:
    """Take in a sequence: compute `tokens`, then choose one token as `sampling` says.

    The last `output_tokens` of `tokens` are output already: a guide holds for them too. `adapter` names
    the LoRA adapter that changes the target for it; empty = none.
    """

    key: int
    tokens: array[int]
    sampling: SamplingParams
    adapter: str = ""
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Trial:
    """Judge these draft tokens of a ready sequence; `distributions` empty = point masses."""

    key: int
    draft_tokens: tuple[int, ...]
    distributions: tuple[DraftDistribution, ...]


@dataclass(frozen=True, slots=True)
class StepOrder:
    """One step's work: give up sequences, take in others, then run what is due.

    `trials` come in order of urgency. A ready sequence without a trial rests: it keeps its place and
    nothing of it is run. `decoding` says that long prompts must be computed in small chunks.
    """

    stop: tuple[int, ...] = ()
    start: tuple[Start, ...] = ()
    trials: tuple[Trial, ...] = ()
    decoding: bool = False


@dataclass(frozen=True, slots=True)
class Output:
    """New tokens of one sequence.

    With `verified` (how many draft tokens were judged; fewer than sent when the step was full) they
    are the accepted draft tokens and one more. With None they answer no trial: the target's own next
    token after a prefix was computed. `ended`: the runtime has given the sequence up (full context).
    """

    key: int
    tokens: tuple[int, ...]
    verified: int | None
    ended: bool = False


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a step did. `ran` are (key, tokens computed) of the step.

    `computing` are sequences that need more steps before they are ready. `short_of_memory`: keys and
    values of some sequence had to go or did not fit; give up a resting one. `refused` sequences could
    not be taken in, for the reason given. `unguidable` ones are given up: the engine cannot follow their
    guide, or not on from the output they have.
    """

    outputs: tuple[Output, ...]
    ran: tuple[tuple[int, int], ...]
    computing: frozenset[int]
    seconds: float
    cached_tokens: int = 0
    short_of_memory: bool = False
    refused: tuple[tuple[int, str], ...] = ()
    unguidable: tuple[int, ...] = ()


class DraftingRuntime(Protocol):
    """A target model that batches by itself and takes drafts from outside. One thread owns it."""

    @property
    def info(self) -> EngineInfo:
        """The target model and its limits; `slots` sequences may be taken in at once."""
        ...

    def run(self, order: StepOrder) -> StepReport:
        """Do one step. Orders must be possible: no key started twice, no trial of a sequence that is
        not ready.

        Raises:
            EngineError: the runtime is unusable from now on.
        """
        ...

    def tokenizer_gguf(self) -> bytes:
        """The vocabulary as a GGUF file without tensors."""
        ...

    def close(self) -> None:
        """Free everything."""
        ...
