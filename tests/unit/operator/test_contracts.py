"""What the operator writes is what verifier, edge and command line read: their own parsers judge
it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import sled_edge.config
import sled_verifier.config
from sled_cli.models.commands import models
from sled_edge.__main__ import main as edge_main
from sled_operator.assignment.classes import device_class
from sled_operator.names import digest
from sled_operator.resources.drafter_config import edge_settings
from sled_operator.resources.pod import Download, model_mount
from sled_operator.resources.verifier_config import verifier_settings
from sled_operator.revision import Endpoint, Snapshot
from sled_operator.spec import EdgeDrafter, SLEDServer
from sled_verifier.__main__ import main as verifier_main
from sled_verifier.config import EngineKind

VLLM: dict[str, Any] = {
    "engine": {"kind": "VLLM", "slots": 64},
    "model": {"name": "m", "source": "hf://org/repo@abc", "vocabulary": "hf://o/r/v.gguf@abc"},
}
TORCH = VLLM | {"engine": {"kind": "Torch"}}
OPENAI: dict[str, Any] = {
    "engine": {"kind": "OpenAI", "url": "https://vllm.example.com:8000/v1", "slots": 32},
    "model": {"name": "m", "vocabulary": "hf://o/r/v.gguf@abc"},
}


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"engine": {"kind": "Fake"}, "model": {"name": "toy"}},
        {"tls": {"mode": "Disabled"}, "auth": {"mode": "None"}, "drainSeconds": 0},
        VLLM | {"gpu": {"count": 1}},
        {
            "batching": {
                "stepTokens": 65_536,
                "prefillChunkTokens": 65_536,
                "maxQueue": 65_536,
                "maxSequencesPerDevice": 256,
                "defaultDeadlineMs": 120_000,
                "idleSeconds": 86_400,
            }
        },
        VLLM | {"gpu": {"count": 4}},
        TORCH,
        TORCH | {"gpu": {"count": 1}},
        OPENAI,
        OPENAI | {"engine": {"kind": "OpenAI", "url": "http://10.0.0.7:8000"}},
        {"resources": {"limits": {"cpu": 4}}, "batching": {"maxDraftTokens": 4}},
    ],
)
def test_the_verifier_reads_its_configuration(
    server: Callable[..., SLEDServer], spec: dict[str, Any]
) -> None:
    resource = server(**spec)
    model = resource.spec.model
    paths = ("/models/a" if model.source else None, "/models/v" if model.vocabulary else None)
    settings = verifier_settings(resource, *paths)
    config = sled_verifier.config.parse_config(yaml.safe_dump(settings))
    assert config.batching.max_draft_tokens == resource.spec.batching.max_draft_tokens
    assert config.model.vocabulary == (Path("/models/v") if model.vocabulary else None)
    if config.engine.vllm is not None:
        assert config.engine.vllm.tensor_parallel_size == resource.spec.gpu.count
    if config.engine.kind is EngineKind.TORCH:
        device = config.engine.torch.device if config.engine.torch else "cpu"
        assert device == ("cuda" if resource.spec.gpu.count else "cpu")
    assert (config.engine.openai.url if config.engine.openai else None) == resource.spec.engine.url
    assert config.drain_seconds == resource.spec.drain_seconds


@pytest.mark.parametrize("mode", ["Rejection", "Match", "PointMass"])
@pytest.mark.parametrize(
    "draft",
    [
        {"name": "lookup", "kind": "NGram"},
        {"name": "fake", "kind": "Fake"},
        {"name": "small", "source": "hf://o/r/a.gguf", "contextTokens": 512},
    ],
)
@pytest.mark.parametrize("endpoint", [Endpoint("v:7000"), Endpoint("v:7000", "ca", "v", "token")])
def test_the_edge_reads_its_configuration(
    drafter: Callable[..., EdgeDrafter], mode: str, draft: dict[str, Any], endpoint: Endpoint
) -> None:
    resource = drafter(drafts=[draft], drafting={"mode": mode}, offline={"policy": "DraftOnly"})
    snapshot = Snapshot(resource.spec, endpoint, {})
    path = "/cache/model.gguf" if "source" in draft else None
    settings = edge_settings(snapshot, resource.spec.drafts[0], device_class("pi5"), path)
    config = sled_edge.config.parse_config(yaml.safe_dump(settings))
    assert config.device_class == "pi5"
    assert config.drafting.mode.value == mode
    assert (config.tls is None) == (endpoint.ca_secret_name is None)


def test_the_edge_takes_its_name_from_the_node(tmp_path: Path) -> None:
    file = tmp_path / "edge.yaml"
    file.write_text("{deviceId: named-by-its-node, verifiers: ['v:7000']}", encoding="utf-8")
    assert edge_main(["--config", str(file), "--device-id", "pi-7", "--check"]) == 0
    assert edge_main(["--config", str(file), "--device-id", "", "--check"]) == 2


def test_the_verifier_takes_its_name_from_the_pod(tmp_path: Path) -> None:
    file = tmp_path / "verifier.yaml"
    file.write_text("{model: {name: toy}, engine: {kind: fake}}", encoding="utf-8")
    assert verifier_main(["--config", str(file), "--replica", "big-0", "--check"]) == 0
    assert verifier_main(["--config", str(file), "--replica", "", "--check"]) == 2


def test_the_command_line_fetches_a_model_to_where_the_pod_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = model_mount("hf://org/repo/a.gguf@rev", Download("image", "Always", "a" * 64))
    (container,) = mount.init_containers
    command = container["command"]
    assert command[:3] == ["sled", "models", "fetch"]
    assert command[command.index("--link") + 1] == mount.path
    assert container["env"][0]["name"] == "SLED_CACHE"
    source = tmp_path / "a.gguf"
    source.write_bytes(b"GGUF" + digest("x").encode())
    link = tmp_path / "model.gguf"
    monkeypatch.setenv("SLED_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        done = CliRunner().invoke(models, ["fetch", source.as_uri(), "--link", str(link)])
        assert done.exit_code == 0, done.output
        assert link.read_bytes() == source.read_bytes()
