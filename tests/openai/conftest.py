"""A real vLLM server on loopback with two layers of random weights in fp32, and what transformers writes with them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sled_testkit.torch_models import own_greedy, write_byte_tokenizer
from sled_testkit.vllm import random_model
from sled_testkit.vllm_server import vllm_server

FOLDER = Path(__file__).parent
CONTEXT = 320
TOKENS = 40
PROMPTS = 8
SELF_WILLED = {"repetition_penalty": 1.4, "temperature": 0.9, "top_p": 0.5, "top_k": 3}
"""A model's own sampling defaults, which vLLM's server applies to what a request leaves out."""

Texts = list[list[int]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What torch and its dependencies warn about is not ours to turn into errors."""
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@dataclass(frozen=True, slots=True)
class Target:
    """A running server, the files that it serves, and the oracle's texts."""

    address: str
    folder: Path
    vocabulary: Path
    prompts: Texts
    texts: Texts


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("target")
    model, vocabulary = random_model(folder)
    rng = random.Random(11)
    prompts = [[rng.randrange(256) for _ in range(1 + 23 * n)] for n in range(PROMPTS)]
    texts = own_greedy(model, prompts, TOKENS)
    (model / "generation_config.json").write_text(json.dumps(SELF_WILLED))
    write_byte_tokenizer(model)
    with vllm_server(model, folder / "server.log", context_tokens=CONTEXT, name="tiny") as address:
        yield Target(address, model, vocabulary, prompts, texts)
