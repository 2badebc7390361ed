"""A small trained model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sled_cli.models.store import ModelStore, default_cache_dir
from sled_llamacpp import Model
from sled_testkit.vllm import Lab, hugging_face_folder, loaded, plain_greedy
from sled_verifier.vllm.settings import VllmSettings

TOKENS = 32
TEXTS = (
    "Count from one to thirty in words, separated by commas: one, two, three,",
    "The recipe needs flour, sugar and butter. First mix the flour with the sugar. Then",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "Once there was a lighthouse keeper who",
    "The capital of France is Paris. The capital of Italy is",
    "To change a bicycle tyre, first",
    "import os\n\ndef list_files(folder):\n",
    "Dear customer, thank you for your letter of",
)


@pytest.fixture(scope="session")
def gguf() -> Path:
    return ModelStore().fetch("catalog://smollm2-135m-q4_1")


@pytest.fixture(scope="session")
def model_folder() -> Path:
    source = ModelStore().fetch("catalog://smollm2-135m-f32")
    return hugging_face_folder(source, default_cache_dir().parent / "hugging-face")


@pytest.fixture(scope="session")
def prompts(gguf: Path) -> list[list[int]]:
    model = Model(gguf, vocab_only=True)
    try:
        return [model.vocabulary.encode(text, special=False) for text in TEXTS]
    finally:
        model.close()


@pytest.fixture(scope="session")
def references(model_folder: Path, prompts: list[list[int]]) -> list[list[int]]:
    """Greedy texts of vLLM alone, in another process."""
    return plain_greedy(model_folder, prompts, TOKENS)


@pytest.fixture(scope="session")
def lab(model_folder: Path, gguf: Path, references: list[list[int]]) -> Iterator[Lab]:
    """The trained model. `references` come first, so that two models are never loaded at once."""
    settings = VllmSettings(
        model_path=model_folder,
        vocabulary_path=gguf,
        model_name="smollm2",
        dtype="float32",
        context_tokens=512,
        slots=8,
        step_tokens=256,
        prefill_chunk_tokens=32,
        max_draft_tokens=8,
        kv_cache_gib=1,
    )
    with loaded(settings) as lab:
        yield lab
