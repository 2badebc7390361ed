"""Tests that need torch and transformers. `make engines` makes the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from sled_cli.models.store import ModelStore, default_cache_dir
from sled_testkit.torch_models import ARCHITECTURES, write_model
from sled_testkit.vllm import hugging_face_folder

FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What torch and its dependencies warn about is not ours to turn into errors."""
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("llama"), ARCHITECTURES["llama"])


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    return ModelStore().fetch("catalog://smollm2-135m-f32")


@pytest.fixture(scope="session")
def smollm2_folder(smollm2_gguf: Path) -> Path:
    """The same weights as a Hugging Face folder."""
    return hugging_face_folder(smollm2_gguf, default_cache_dir().parent / "hugging-face")
