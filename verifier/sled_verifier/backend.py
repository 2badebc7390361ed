"""What the servicer talks to: a small async seam between streams and whatever verifies. Must not
know gRPC or any engine.

Shapes behind it: `batched.BatchedBackend` (our own batcher over an `Engine`), and runtimes that
batch by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sled_verifier.engine.base import EngineInfo
from sled_verifier.rounds import Admission, DraftRequest, Load, OpenRequest, RoundVerdict


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a backend has room for right now."""

    queue_capacity: int
    max_sequences: int
    slots: int


@dataclass(frozen=True, slots=True)
class BackendStats:
    """A backend's own figures; counters are totals since start."""

    load: Load
    resident_sequences: int
    evicted_sequences: int
    rounds_running: int
    queue_seconds_p50: float
    queue_seconds_p95: float
    step_seconds_p50: float
    steps_total: int
    evictions_total: int
    prefill_tokens_total: int
    prefix_cached_tokens_total: int
    engine_failures_total: int
    foretold_tokens_total: int


class VerifierBackend(Protocol):
    """Sequences and rounds. All methods are called from one event loop and none blocks it."""

    @property
    def info(self) -> EngineInfo:
        """The target model and its limits."""
        ...

    async def open(self, request: OpenRequest) -> Admission:
        """Admit a sequence.

        Raises:
            Refusal: it cannot be served.
        """
        ...

    async def verify(self, key: int, draft: DraftRequest) -> RoundVerdict:
        """Judge one draft; idempotent by (committed length, prefix hash, draft tokens).

        Cancelling withdraws the round; one that is running completes and its verdict can be asked
        for again.

        Raises:
            Refusal: it cannot be judged.
        """
        ...

    def close(self, key: int) -> None:
        """End a sequence and free what it holds, at once or when its running step ends; unknown
        keys are ignored.
        """
        ...

    def capacity(self) -> Capacity:
        """The bounds that hold now."""
        ...

    def stats(self) -> BackendStats:
        """The present load, and counters."""
        ...

    async def tokenizer_gguf(self) -> bytes:
        """The target's vocabulary as a GGUF file without tensors."""
        ...
