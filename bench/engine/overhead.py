"""What our own code costs for each step: the CPU time of the whole process but for the engine's `step`.

An engine that answers at once is driven by as many devices as there are sequences, without a network:
scheduling, trimming, judging greedy drafts, books, metrics, and the event loop. The devices' own part is
measured apart and taken off.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Iterable, Sequence

from sled_protocol.prefix import PrefixHash
from sled_speculation.sampling import SamplingParams
from sled_verifier.batched import BatchedBackend
from sled_verifier.engine.base import Logits, StepItem
from sled_verifier.engine.fake import FakeEngine, ToyModel
from sled_verifier.limits import Limits
from sled_verifier.metrics import Metrics
from sled_verifier.rounds import TOKEN_ARRAY, DraftRequest, OpenRequest

DRAFT_TOKENS = 4
TEXT_TOKENS = 500


class TimedEngine(FakeEngine):
    """A `FakeEngine` that knows how much CPU time its own steps took."""

    inside_seconds = 0.0

    def step(self, items: Sequence[StepItem]) -> list[Logits]:
        """See `Engine.step`."""
        began = time.thread_time()
        rows = super().step(items)
        self.inside_seconds += time.thread_time() - began
        return rows


class _Writer:
    """One device: drafts with a wrong token now and then, from a text that is known."""

    def __init__(self, model: ToyModel, number: int) -> None:
        self.prompt = [number % 256, number // 256, 3]
        self._text = model.greedy(self.prompt, TEXT_TOKENS)
        self._prefix = PrefixHash(self.prompt)
        self._at = 0

    def next(self) -> DraftRequest | None:
        """The next draft, None at the end of the text."""
        right = self._text[self._at : self._at + DRAFT_TOKENS]
        if len(right) < DRAFT_TOKENS or self._at + DRAFT_TOKENS >= len(self._text):
            return None
        draft = tuple(t if (self._at + n) % 5 else (t + 1) % 256 for n, t in enumerate(right, 1))
        return DraftRequest(self._at, self._prefix.value, draft, (), 30.0)

    def take(self, draft: DraftRequest, accepted: int, next_token: int) -> None:
        """Write what was verified."""
        output = [*draft.draft_tokens[:accepted], next_token]
        self._prefix.extend(output)
        self._at += len(output)

    def alone(self) -> None:
        """What a device does in all its rounds, without a verifier."""
        while (draft := self.next()) is not None:
            self.take(draft, 2, 0)


def room_for(sequences: int, step_tokens: int) -> Limits:
    """All of them may be open and wait at once."""
    return Limits(
        step_tokens=step_tokens,
        max_queue=sequences,
        max_sequences=sequences,
        max_sequences_per_device=sequences,
    )


async def opened(backend: BatchedBackend, prompts: Iterable[Sequence[int]]) -> list[int]:
    """A greedy sequence of a device of its own for each prompt; their keys."""
    keys = []
    for number, tokens in enumerate(prompts):
        prompt, nothing = array(TOKEN_ARRAY, tokens), array(TOKEN_ARRAY)
        request = OpenRequest(f"d{number}", prompt, nothing, SamplingParams())
        keys.append((await backend.open(request)).key)
    return keys


async def own_milliseconds(sequences: int) -> dict[str, float]:
    """Of each step with so many sequences, all of them with a draft of DRAFT_TOKENS tokens."""
    model = ToyModel()
    writers = [_Writer(model, number) for number in range(sequences)]
    engine = TimedEngine(model=model, slots=sequences)
    limits = room_for(sequences, 4096)
    async with BatchedBackend(engine, limits, observer=Metrics("toy")) as backend:
        keys = await opened(backend, (writer.prompt for writer in writers))
        engine.inside_seconds, engine.steps = 0.0, 0

        async def drive(key: int, writer: _Writer) -> int:
            rounds = 0
            while (draft := writer.next()) is not None:
                verdict = await backend.verify(key, draft)
                writer.take(draft, verdict.accepted, verdict.next_token)
                rounds += 1
            return rounds

        cpu, began = time.process_time(), time.monotonic()
        rounds = sum(await asyncio.gather(*map(drive, keys, writers)))
        cpu, wall = time.process_time() - cpu, time.monotonic() - began
    own = time.process_time()
    for number in range(sequences):
        _Writer(model, number).alone()
    text = time.process_time()
    for number in range(sequences):
        _Writer(model, number)
    devices = (text - own) - (time.process_time() - text)
    ours = max(0.0, cpu - engine.inside_seconds - devices)
    return {
        "own_milliseconds_per_step": 1e3 * ours / engine.steps,
        "own_microseconds_per_round": 1e6 * ours / rounds,
        "rounds_per_second_in_process": rounds / wall,
        "rounds_per_step": rounds / engine.steps,
    }
