"""Two layers of random weights over 256 tokens: steps of a few milliseconds."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from sled_testkit.vllm import Lab, loaded, plain_greedy, random_model, settings_of_random_model

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
    with loaded(settings_of_random_model(model, SLOTS)) as lab:
        yield lab
