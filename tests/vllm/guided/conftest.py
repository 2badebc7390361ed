"""Two layers of random weights over 256 tokens, each a byte, with a tokenizer that says so: token 2 ends a text."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from sled_testkit.vllm import (
    Lab,
    add_byte_tokenizer,
    loaded,
    plain_greedy,
    random_model,
    settings_of_random_model,
)

Texts = list[list[int]]
TOKENS = 120
SCHEMAS = (
    {"enum": ["red", "green", {"shade": [1, 2, 3]}]},
    {
        "type": "object",
        "properties": {
            "colour": {"enum": ["red", "green", "blue"]},
            "name": {"type": "string", "pattern": "^[a-z]{4,12}$"},
            "ready": {"type": "boolean"},
        },
        "required": ["colour", "name", "ready"],
        "additionalProperties": False,
    },
    {"type": "array", "items": {"enum": [1, 20, 300]}, "minItems": 3, "maxItems": 9},
    {"type": "object"},
)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder, vocabulary = random_model(tmp_path_factory.mktemp("model"))
    add_byte_tokenizer(folder)
    return folder, vocabulary


@pytest.fixture(scope="session")
def schemas() -> list[str]:
    return [json.dumps(schema) for schema in SCHEMAS] * 3


@pytest.fixture(scope="session")
def prompts(schemas: list[str]) -> Texts:
    rng = random.Random(11)
    return [[rng.randrange(256) for _ in range(6 + 5 * n)] for n in range(len(schemas))]


@pytest.fixture(scope="session")
def references(model: tuple[Path, Path], prompts: Texts, schemas: list[str]) -> Texts:
    """Guided greedy texts of vLLM alone, in another process."""
    return plain_greedy(model[0], prompts, TOKENS, schemas=schemas)


@pytest.fixture(scope="session")
def lab(model: tuple[Path, Path], references: Texts) -> Iterator[Lab]:
    with loaded(settings_of_random_model(model, 12)) as lab:
        yield lab
