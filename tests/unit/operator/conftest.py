"""Resources for the operator's tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sled_operator.spec import EdgeDrafter, SLEDServer, parse

Build = Callable[..., Any]


def _document(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "fleet", "uid": f"uid-{name}", "generation": 1}
    return {
        "apiVersion": "sled.dev/v1alpha1",
        "kind": kind,
        "metadata": metadata,
        "spec": spec,
    }


@pytest.fixture
def server_document() -> Build:
    def build(name: str = "big", **spec: Any) -> dict[str, Any]:
        model = {"name": "target", "source": "hf://org/repo/model.gguf@main"}
        return _document("SLEDServer", name, {"model": model, **spec})

    return build


@pytest.fixture
def drafter_document() -> Build:
    def build(name: str = "pis", **spec: Any) -> dict[str, Any]:
        base: dict[str, Any] = {
            "server": {"name": "big"},
            "nodeSelector": {"sled.dev/device": "true"},
            "drafts": [{"name": "ngram", "kind": "NGram"}],
        }
        return _document("EdgeDrafter", name, base | spec)

    return build


@pytest.fixture
def server(server_document: Build) -> Callable[..., SLEDServer]:
    def build(**spec: Any) -> SLEDServer:
        parsed = parse(server_document(**spec))
        assert isinstance(parsed, SLEDServer)
        return parsed

    return build


@pytest.fixture
def drafter(drafter_document: Build) -> Callable[..., EdgeDrafter]:
    def build(**spec: Any) -> EdgeDrafter:
        parsed = parse(drafter_document(**spec))
        assert isinstance(parsed, EdgeDrafter)
        return parsed

    return build
