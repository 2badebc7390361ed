"""An engine whose runtime is not installed is a configuration error that says what to install."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from sled_testkit.verifier import verifier_config
from sled_verifier.engine.factory import build_engine, load_target, may_use_gpu
from sled_verifier.refusal import ConfigError


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_torch_names_its_extra(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    config = verifier_config(
        model={"name": "x", "path": tmp_path}, engine={"kind": "torch", "torch": {"device": "cpu"}}
    )
    with pytest.raises(ConfigError, match=r"torch.*install sled-inference\[verifier-torch\]"):
        build_engine(config)


async def test_openai_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    for name in ("launch", "client"):
        monkeypatch.delitem(sys.modules, f"sled_verifier.openai.{name}", raising=False)
    config = verifier_config(
        model={"name": "x", "vocabulary": tmp_path / "v.gguf"},
        engine={"kind": "openai", "openai": {"url": "http://127.0.0.1:9"}},
    )
    with pytest.raises(ConfigError, match=r"openai.*install sled-inference\[verifier-openai\]"):
        await load_target(config)


@pytest.mark.parametrize("kind", ["vllm", "openai"])
def test_what_batches_by_itself_is_no_engine(kind: str, tmp_path: Path) -> None:
    own = {"openai": {"url": "http://127.0.0.1:9"}} if kind == "openai" else {}
    config = verifier_config(
        model={"name": "x", "path": tmp_path, "vocabulary": tmp_path},
        engine={"kind": kind, **own},
    )
    with pytest.raises(ConfigError, match="batches by itself"):
        build_engine(config)


@pytest.mark.parametrize(
    ("engine", "may"),
    [
        ({"kind": "fake"}, False),
        ({"kind": "llamacpp"}, False),
        ({"kind": "llamacpp", "library": "cuda.so"}, True),
        ({"kind": "torch"}, False),
        ({"kind": "torch", "torch": {"device": "cuda:1"}}, True),
        ({"kind": "vllm"}, True),
    ],
)
def test_which_targets_may_be_on_a_gpu(engine: dict[str, Any], may: bool) -> None:
    assert may_use_gpu(verifier_config(model={"name": "x", "path": "y"}, engine=engine)) is may


def test_a_device_that_torch_cannot_have_is_refused() -> None:
    with pytest.raises(ValueError, match="device"):
        verifier_config(
            model={"name": "x", "path": "y"}, engine={"kind": "torch", "torch": {"device": "tpu"}}
        )
