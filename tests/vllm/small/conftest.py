"""Two layers of random weights over 256 tokens: steps of a few milliseconds."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from sled_testkit.vllm import Lab, plain_greedy, random_model
from sled_verifier.vllm.launch import load_runtime
from sled_verifier.vllm.settings import VllmSettings

SLOTS = 16
PENALTIES = (1.0,) * 8 + (1.3,) * 4
TOKENS = 48

Texts = list[list[int]]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return random_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def prompts() -> Texts:
    rng = random.Random(5)
    return [[rng.randrange(256) for _ in range(5 + 9 * n)] for n in range(len(PENALTIES))]


@pytest.fixture(scope="session")
def references(model: tuple[Path, Path], prompts: Texts) -> Texts:
    """Greedy texts of vLLM alone, in another process; the last four with a repetition penalty."""
    return plain_greedy(model[0], prompts, TOKENS, PENALTIES)


@pytest.fixture(scope="session")
def lab(model: tuple[Path, Path], references: Texts) -> Iterator[Lab]:
    settings = VllmSettings(
        model_path=model[0],
        vocabulary_path=model[1],
        model_name="random",
        dtype="float32",
        context_tokens=256,
        slots=SLOTS,
        step_tokens=256,
        prefill_chunk_tokens=32,
        max_draft_tokens=8,
        kv_cache_gib=1,
    )
    lab = Lab.load(lambda: load_runtime(settings))
    yield lab
    lab.close()
