from __future__ import annotations

import copy
from typing import Any

import pytest

from sled_operator.spec import EdgeDrafter, InvalidResource, SLEDServer, parse

SERVER: dict[str, Any] = {
    "apiVersion": "sled.dev/v1alpha1",
    "kind": "SLEDServer",
    "metadata": {"name": "big", "namespace": "fleet", "uid": "u1", "generation": 3},
    "spec": {"model": {"name": "target", "source": "catalog://target"}},
}
DRAFTER: dict[str, Any] = {
    "apiVersion": "sled.dev/v1alpha1",
    "kind": "EdgeDrafter",
    "metadata": {"name": "pis"},
    "spec": {
        "server": {"name": "big"},
        "nodeSelector": {"sled.dev/device": "true"},
        "drafts": [{"name": "small", "source": "hf://org/repo/a.gguf@main"}],
    },
}


def changed(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with one dotted path set; numbers index lists."""
    result = copy.deepcopy(document)
    node: Any = result
    *parents, last = path.split(".")
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
    node[last] = value
    return result


def test_a_minimal_server_gets_the_defaults() -> None:
    server = parse(SERVER)
    assert isinstance(server, SLEDServer)
    assert server.metadata.generation == 3
    assert server.spec.batching.step_tokens == 256
    assert server.spec.tls.mode == "SelfSigned"
    assert server.spec.autoscaling.scale_down.stabilization_seconds == 300


def test_a_minimal_drafter_gets_the_defaults() -> None:
    drafter = parse(DRAFTER)
    assert isinstance(drafter, EdgeDrafter)
    assert drafter.spec.drafting.max_tokens == 8
    assert drafter.spec.offline.policy == "Refuse"
    assert drafter.spec.drafts[0].profile.memory_mib == 64


def test_null_counts_as_absent_and_status_is_ignored() -> None:
    document = changed(SERVER, "spec.batching", None) | {"status": {"whatever": 1}}
    assert parse(document) == parse(SERVER)


def test_the_pod_template_is_kept_as_it_is() -> None:
    template = {"spec": {"containers": [{"name": "verifier", "env": None}]}}
    server = parse(changed(SERVER, "spec.podTemplate", template))
    assert server.spec.pod_template == template


WAVE = {"name": "first", "percent": 10}
BAD: list[tuple[dict[str, Any], str, str]] = [
    (changed(SERVER, "apiVersion", "sled.dev/v1"), "apiVersion", "expected sled.dev/v1alpha1"),
    (changed(SERVER, "kind", "Server"), "kind", "expected SLEDServer or EdgeDrafter"),
    (changed(SERVER, "extra", 1), "extra", "unknown field"),
    (changed(SERVER, "metadata", {}), "metadata.name", "required field is missing"),
    (changed(SERVER, "metadata.name", "9lives"), "metadata", "begins with a letter"),
    (changed(SERVER, "metadata.name", "a" * 41), "metadata", "at most 40 characters"),
    (changed(SERVER, "spec", None), "spec", "required field is missing"),
    (changed(SERVER, "spec.modle", {}), "spec.modle", "unknown field"),
    (changed(SERVER, "spec.model.sha256", "XYZ"), "spec.model.sha256", ""),
    (changed(SERVER, "spec.model.source", "ftp://x/y"), "spec.model.source", "pattern"),
    (changed(SERVER, "spec.model.source", None), "spec", "model.source is needed"),
    (changed(SERVER, "spec.replicas", "3"), "spec.replicas", "integer"),
    (changed(SERVER, "spec.replicas", -1), "spec.replicas", "greater than or equal to 0"),
    (changed(SERVER, "spec.batching.prefillChunkTokens", 512), "spec.batching", "must not exceed"),
    (changed(SERVER, "spec.batching.stepTokens", True), "spec.batching.stepTokens", "integer"),
    (changed(SERVER, "spec.resources.limits.cpu", 1.5), "spec.resources.limits.cpu", "quantity"),
    (changed(SERVER, "spec.autoscaling.minReplicas", 9), "spec.autoscaling", "must not exceed"),
    (
        changed(SERVER, "spec.autoscaling", {"mode": "HPA", "minReplicas": 0}),
        "spec.autoscaling",
        "cannot scale to zero",
    ),
    (changed(SERVER, "spec.autoscaling.maxReplicas", 0), "spec.autoscaling", ""),
    (changed(SERVER, "spec.autoscaling.fallbackReplicas", 9), "spec.autoscaling", "fallback"),
    (changed(SERVER, "spec.tls", {"mode": "Secret"}), "spec.tls", "needs secretName"),
    (changed(SERVER, "spec.tls", {"mode": "CertManager"}), "spec.tls", "issuerRef"),
    (
        changed(SERVER, "spec.auth", {"mode": "None", "secretName": "x"}),
        "spec.auth",
        "belongs to auth mode DeviceTokens",
    ),
    (changed(SERVER, "spec.exposure", {"type": "Gateway"}), "spec.exposure", "gateway"),
    (changed(SERVER, "spec.exposure", {"nodePort": 30000}), "spec.exposure", "nodePort belongs"),
    (changed(SERVER, "spec.cache", {"type": "HostPath"}), "spec.cache", "needs it"),
    (changed(SERVER, "spec.engine", {"kind": "VLLM"}), "spec", "needs gpu.count"),
    (changed(SERVER, "spec.engine", {"kind": "OpenAI"}), "spec.engine", "url belongs"),
    (
        changed(SERVER, "spec.engine", {"kind": "OpenAI", "url": "http://v:8000"}),
        "spec",
        "OpenAI needs model.vocabulary",
    ),
    (
        changed(SERVER, "spec.engine", {"kind": "OpenAI", "url": "http://v:8000/?key=1"}),
        "spec.engine.url",
        "pattern",
    ),
    (
        changed(SERVER, "spec.gpu", {"allocation": "DRA", "productAffinity": ["A100"]}),
        "spec.gpu",
        "deviceClassName",
    ),
    (changed(DRAFTER, "spec.server", {}), "spec.server", "exactly one of name and address"),
    (
        changed(DRAFTER, "spec.server", {"name": "a", "address": "b:1"}),
        "spec.server",
        "exactly one of name and address",
    ),
    (
        changed(DRAFTER, "spec.server", {"name": "a", "caSecretName": "b"}),
        "spec.server",
        "brings its own",
    ),
    (changed(DRAFTER, "spec.nodeSelector", {}), "spec.nodeSelector", "at least 1"),
    (changed(DRAFTER, "spec.drafts", []), "spec.drafts", "at least 1"),
    (
        changed(DRAFTER, "spec.drafts.0.kind", "NGram"),
        "spec.drafts[0]",
        "source belongs to draft kind LlamaCpp",
    ),
    (changed(DRAFTER, "spec.drafts.0.name", "Not Good"), "spec.drafts[0].name", "pattern"),
    (changed(DRAFTER, "spec.drafting.maxTokens", 17), "spec.drafting.maxTokens", "16"),
    (
        changed(DRAFTER, "spec.rollout", {"waves": [{"name": "a"}]}),
        "spec.rollout.waves[0]",
        "exactly one of percent and selector",
    ),
    (
        changed(DRAFTER, "spec.rollout", {"waves": [WAVE, {"name": "b", "percent": 5}]}),
        "spec.rollout",
        "at least that of the wave before",
    ),
    (
        changed(
            DRAFTER, "spec.rollout.maintenanceWindow", {"start": "25:00", "durationMinutes": 5}
        ),
        "spec.rollout.maintenanceWindow.start",
        "pattern",
    ),
    (
        changed(DRAFTER, "spec.tolerations", [{"operator": "Exists", "value": "x"}]),
        "spec.tolerations[0]",
        "has no value",
    ),
    (
        changed(DRAFTER, "spec.drafts", [{"name": "n", "kind": "NGram"}] * 2),
        "spec.drafts",
        "'n' is there twice",
    ),
]


@pytest.mark.parametrize(("document", "field", "sentence"), BAD, ids=lambda v: str(v)[:40])
def test_a_bad_document_is_refused_with_field_and_sentence(
    document: dict[str, Any], field: str, sentence: str
) -> None:
    with pytest.raises(InvalidResource) as refused:
        parse(document)
    assert refused.value.field == field
    assert sentence in refused.value.sentence


@pytest.mark.parametrize("document", [None, [], "text", 7])
def test_what_is_no_mapping_is_refused(document: Any) -> None:
    with pytest.raises(InvalidResource):
        parse(document)


def test_a_document_nested_without_end_is_refused() -> None:
    deep: Any = {}
    for _ in range(200):
        deep = {"x": deep}
    with pytest.raises(InvalidResource, match="levels deep"):
        parse(changed(SERVER, "spec.model", deep))
