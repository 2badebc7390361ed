"""Our own code's share of a step of a real model at many sequences.

The whole verifier but for the network: scheduling, judging rows of the model's logits, books, metrics and
the event loop, set against the time of the engine's bare step over the same tokens, in the same run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import overhead

from sled_protocol.prefix import PrefixHash
from sled_verifier.batched import BatchedBackend
from sled_verifier.engine.base import Engine, Logits, StepItem
from sled_verifier.engine.llamacpp import LlamaCppEngine
from sled_verifier.metrics import Metrics
from sled_verifier.rounds import DraftRequest

CONTEXT_TOKENS = 256
STEP_TOKENS = 512


class _Timed:
    """An engine that knows how long its steps took, and their processor time over all threads."""

    def __init__(self, engine: Engine) -> None:
        self.info = engine.info
        self.steps, self.tokens, self.seconds, self.cpu_seconds = 0, 0, 0.0, 0.0
        self.truncate, self.copy_prefix = engine.truncate, engine.copy_prefix
        self.tokenizer_gguf, self.close = engine.tokenizer_gguf, engine.close
        self._engine = engine

    def step(self, items: Sequence[StepItem]) -> list[Logits]:
        """See `Engine.step`."""
        began, cpu = time.monotonic(), time.process_time()
        rows = self._engine.step(items)
        self.cpu_seconds += time.process_time() - cpu
        self.seconds += time.monotonic() - began
        self.steps += 1
        self.tokens += sum(len(item.tokens) for item in items)
        return rows


async def of_a_step(model: Path, threads: int, sequences: int, rounds: int) -> dict[str, float]:
    """Rounds of DRAFT_TOKENS greedy draft tokens from every sequence at once; percent of the bare step."""
    bare = LlamaCppEngine(
        model,
        model_name="target",
        threads=threads,
        context_tokens=CONTEXT_TOKENS,
        slots=sequences,
        max_step_tokens=STEP_TOKENS,
    )
    engine = _Timed(bare)
    limits = overhead.room_for(sequences, STEP_TOKENS)
    async with BatchedBackend(engine, limits, observer=Metrics("target")) as backend:
        keys = await overhead.opened(backend, map(_prompt, range(sequences)))
        started = asyncio.gather(*(_drive(backend, k, n, 1) for n, k in enumerate(keys)))
        places = await started  # prompts are decoded here
        engine.steps, engine.tokens, engine.seconds, engine.cpu_seconds = 0, 0, 0.0, 0.0
        cpu = time.process_time()
        await asyncio.gather(
            *(_drive(backend, k, n, rounds, places[n]) for n, k in enumerate(keys))
        )
        cpu = time.process_time() - cpu
    ours = max(0.0, cpu - engine.cpu_seconds)
    return {
        "tokens_per_model_step": engine.tokens / engine.steps,
        "own_milliseconds_per_model_step": 1e3 * ours / engine.steps,
        "bare_milliseconds_per_model_step": 1e3 * engine.seconds / engine.steps,
        "own_percent_of_model_step": 100 * ours / engine.seconds,
    }


_Place = tuple[int, PrefixHash]


def _prompt(number: int) -> list[int]:
    return [5 + number, 7, 11]


async def _drive(
    backend: BatchedBackend, key: int, number: int, rounds: int, place: _Place | None = None
) -> _Place:
    """Draft without looking at any text: what is rejected costs the target as much as what is accepted."""
    at, prefix = place or (0, PrefixHash(_prompt(number)))
    for turn in range(rounds):
        draft = tuple(100 + (number + turn + n) % 1000 for n in range(overhead.DRAFT_TOKENS))
        request = DraftRequest(at, prefix.value, draft, (), 600.0)
        verdict = await backend.verify(key, request)
        output = [*draft[: verdict.accepted], verdict.next_token]
        prefix.extend(output)
        at += len(output)
    return at, prefix
