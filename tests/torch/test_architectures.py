"""Greedy text through the batched backend over the torch engine is transformers' own `generate`, token for token,
for each architecture.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from sled_testkit.text_device import TextDevice, write_together
from sled_testkit.torch_models import ARCHITECTURES, REFUSED, VOCAB_SIZE, own_greedy, write_model
from sled_verifier.backend import BackendStats
from sled_verifier.batched import BatchedBackend
from sled_verifier.engine.base import EngineError
from sled_verifier.engine.torch_engine import TorchEngine
from sled_verifier.limits import Limits
from sled_verifier.slots import SlotPolicy

TOKENS = 40
SLOTS = 4
EAGER_POLICY = SlotPolicy(keep_idle_seconds=0, patience_seconds=0, slice_seconds=0)
"""Slots change hands all the time, so that sequences are evicted and rebuilt."""


def prompts() -> list[list[int]]:
    """Nine prompts of 1 to 90 tokens; four of them share their first 45."""
    rng = random.Random(3)
    common = [rng.randrange(VOCAB_SIZE) for _ in range(45)]
    alone = [[rng.randrange(VOCAB_SIZE) for _ in range(n)] for n in (1, 5, 16, 33, 90)]
    return alone + [
        [*common, *(rng.randrange(VOCAB_SIZE) for _ in range(n))] for n in (1, 3, 8, 20)
    ]


@dataclass(frozen=True, slots=True)
class Written:
    """What came of one architecture."""

    texts: list[list[int]]
    expected: list[list[int]]
    stats: BackendStats


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = write_model(tmp_path_factory.mktemp(request.param), ARCHITECTURES[request.param])
    expected = own_greedy(folder, prompts(), TOKENS)
    engine = TorchEngine(
        folder,
        folder / "vocabulary.gguf",
        model_name=request.param,
        context_tokens=160,
        slots=SLOTS,
        threads=1,
        max_step_tokens=64,
    )
    return asyncio.run(_write(engine, expected))


async def _write(engine: TorchEngine, expected: list[list[int]]) -> Written:
    """More devices than slots, drafts of 1 to 6 tokens that are often wrong, all at once."""
    limits = Limits(step_tokens=64, prefill_chunk_tokens=13, max_draft_tokens=8)
    async with BatchedBackend(engine, limits, policy=EAGER_POLICY) as backend:
        devices = [
            TextDevice(backend, prompt, text, skill=0.7, draft_tokens=1 + n % 6, seed=n)
            for n, (prompt, text) in enumerate(zip(prompts(), expected, strict=True))
        ]
        texts = await write_together(devices, TOKENS)
        return Written(texts, expected, backend.stats())


def test_every_text_is_the_models_own(written: Written) -> None:
    assert written.texts == written.expected
    assert len({tuple(text) for text in written.expected}) == len(written.expected)


def test_sequences_were_evicted_rebuilt_and_shared(written: Written) -> None:
    assert written.stats.evictions_total > 0
    assert written.stats.prefix_cached_tokens_total > 0
    assert written.stats.engine_failures_total == 0


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_other_architectures_are_refused_at_start(name: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / name, REFUSED[name])
    with pytest.raises(EngineError, match="attention"):
        TorchEngine(folder, folder / "vocabulary.gguf", model_name=name, context_tokens=64)
