"""An engine whose runtime is not installed is a configuration error that says what to install."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sled_testkit.verifier import verifier_config
from sled_verifier.engine.factory import build_engine
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


def test_a_device_that_torch_cannot_have_is_refused() -> None:
    with pytest.raises(ValueError, match="device"):
        verifier_config(
            model={"name": "x", "path": "y"}, engine={"kind": "torch", "torch": {"device": "tpu"}}
        )
