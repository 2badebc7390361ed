from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sled_cli.errors import BadInput
from sled_cli.up.configs import edge_config, verifier_config
from sled_cli.up.documents import Document, Reading
from sled_cli.up.fleet_plan import FleetPlan, LocalFacts
from sled_cli.up.plan import candidate_ports, plan_fleet
from sled_cli.up.preflight import check_configs
from sled_edge.config import EdgeConfig
from sled_operator.spec import parse

FACTS = LocalFacts(cpu_count=4, machine="x86_64")
MODEL = {"source": "catalog://small", "name": "small"}


def server(name: str = "s", *, local: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    spec = {"model": {"name": "toy"}, "engine": {"kind": "Fake"}} | spec
    return _document("SLEDServer", name, local, spec)


def drafter(name: str = "d", *, local: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    spec = {
        "server": {"name": "s"},
        "nodeSelector": {"edge": "yes"},
        "drafts": [{"name": "ngram", "kind": "NGram"}],
    } | spec
    return _document("EdgeDrafter", name, local, spec)


def _document(kind: str, name: str, local: dict[str, str] | None, spec: Any) -> dict[str, Any]:
    annotations = {f"local.sled.dev/{key}": value for key, value in (local or {}).items()}
    metadata: dict[str, Any] = {"name": name, "annotations": annotations}
    if "." in name:
        metadata["namespace"], metadata["name"] = name.split(".")
    return {
        "apiVersion": "sled.dev/v1alpha1",
        "kind": kind,
        "metadata": metadata,
        "spec": spec,
    }


def reading(*documents: dict[str, Any]) -> Reading:
    return Reading(
        tuple(Document(parse(d), Path("fleet.yaml"), n + 1) for n, d in enumerate(documents)), ()
    )


def plan(*documents: dict[str, Any], facts: LocalFacts = FACTS) -> FleetPlan:
    return plan_fleet(reading(*documents), facts)


def test_one_server_and_one_device_by_default() -> None:
    fleet = plan(server(), drafter())

    assert [(v.name, v.port, v.metrics_port) for v in fleet.verifiers] == [("s-0", 7000, 7001)]
    assert [(d.name, d.port, d.verifiers) for d in fleet.devices] == [
        ("d-0", 8080, ("127.0.0.1:7000",))
    ]
    assert fleet.devices[0].device_class == "local"
    assert fleet.models() == ()


def test_order_of_documents_does_not_matter_and_busy_ports_are_passed_over() -> None:
    facts = LocalFacts(4, "x86_64", frozenset({7000, 7002, 8080}))

    fleet = plan(drafter(), server(replicas=2), facts=facts)

    assert [(v.port, v.metrics_port) for v in fleet.verifiers] == [(7001, 7003), (7004, 7005)]
    assert fleet.devices[0].port == 8081
    assert fleet.devices[0].verifiers == ("127.0.0.1:7001", "127.0.0.1:7004")


def test_named_ports_are_kept_from_those_who_take_any() -> None:
    fleet = plan(server(), drafter("a"), drafter("b", local={"port": "8080", "devices": "2"}))

    assert {d.name: d.port for d in fleet.devices} == {"a-0": 8082, "b-0": 8080, "b-1": 8081}


def test_devices_take_the_drafts_for_their_class_in_turn() -> None:
    drafts = [
        {"name": "tiny", "kind": "NGram", "deviceClasses": ["pi4"]},
        {"name": "any", "kind": "Fake"},
        {"name": "arm", "kind": "Fake", "architectures": ["arm64"]},
    ]

    fleet = plan(server(), drafter(local={"devices": "pi4, pi4,x86,pi4"}, drafts=drafts))

    assert [(d.device_class, d.draft_name) for d in fleet.devices] == [
        ("pi4", "tiny"),
        ("pi4", "any"),
        ("x86", "any"),
        ("pi4", "tiny"),
    ]


def test_every_model_is_needed_once() -> None:
    model = {"name": "big", "source": "hf://org/repo/big.gguf@main", "sha256": "0" * 64}
    draft = {"name": "small", "source": "catalog://small"}

    fleet = plan(
        server(model=model, engine={"kind": "LlamaCpp"}, replicas=2),
        drafter(local={"devices": "3"}, drafts=[draft]),
    )

    assert [(m.name, m.source) for m in fleet.models()] == [
        ("big", "hf://org/repo/big.gguf@main"),
        ("small", "catalog://small"),
    ]


def test_resources_of_another_namespace_are_others() -> None:
    fleet = plan(server("lab.s"), server("s"), drafter("lab.d"), drafter("d"))

    assert [v.name for v in fleet.verifiers] == ["lab.s-0", "s-0"]
    assert {d.name: d.verifiers for d in fleet.devices} == {
        "lab.d-0": ("127.0.0.1:7000",),
        "d-0": ("127.0.0.1:7002",),
    }


BAD = {
    "no documents": ([], "there is no SLEDServer and no EdgeDrafter"),
    "server missing": ([drafter()], "spec.server.name: there is no SLEDServer s with a replica"),
    "no replica": ([server(replicas=0), drafter()], "there is no SLEDServer s with a replica"),
    "twice": ([server(), server()], "document 2 .SLEDServer s.: is in fleet.yaml already"),
    "other namespace": ([server("lab.s"), drafter()], "in namespace default"),
    "engine": (
        [server(engine={"kind": "VLLM"}, gpu={"count": 1}, model=MODEL)],
        "spec.engine.kind: VLLM does not run under sled up; here: LlamaCpp or Fake",
    ),
    "source": (
        [server(engine={"kind": "LlamaCpp"}, model={"name": "m", "source": "pvc://claim/m.gguf"})],
        "spec.model.source: pvc:// exists on a cluster only; here: hf://, s3://, file://, catalog://",
    ),
    "draft source": (
        [server(), drafter(drafts=[{"name": "m", "source": "oci://bucket/m#m.gguf"}])],
        r"spec.drafts\[0\].source: oci:// exists on a cluster only",
    ),
    "replicas": ([server(replicas=17)], "spec.replicas: more than 16 on one machine"),
    "class": (
        [
            server(),
            drafter(drafts=[{"name": "x", "kind": "NGram", "deviceClasses": ["pi5"]}]),
        ],
        "spec.drafts: none of them is for device class 'local' on amd64",
    ),
    "port": ([server(local={"port": "http"})], "'http' is not a port between 1 and 65535"),
    "port taken": ([server(local={"port": "9999"})], "port 9999 is taken by another program"),
    "port end": ([server(local={"port": "65535"})], "port 65536 is above 65535"),
    "port given": (
        [server(local={"port": "9000"}), drafter(local={"port": "9001"})],
        "port 9001 is given to fleet.yaml, document 1 .SLEDServer s. already",
    ),
    "devices": ([server(), drafter(local={"devices": "0"})], "outside 1 to 128"),
    "too many": ([server(), drafter(local={"devices": "9" * 99})], "outside 1 to 128"),
    "classes": ([server(), drafter(local={"devices": "a,,b"})], "neither a number nor a list"),
    "unknown": ([server(local={"devices": "2"})], "unknown; known here: local.sled.dev/port"),
    "secret": (
        [drafter(server={"address": "far:7000", "tokenSecretName": "t"})],
        "there are no Secrets here; name a file in the annotation local.sled.dev/token-file",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_run_here_is_refused_with_document_and_field(case: str) -> None:
    documents, sentence = BAD[case]

    with pytest.raises(BadInput, match=sentence):
        plan(*documents, facts=LocalFacts(4, "x86_64", frozenset({9999})))


def test_all_free_ports_taken() -> None:
    found = reading(server())
    with pytest.raises(BadInput, match="no free port from 7000"):
        plan_fleet(found, LocalFacts(1, "x86_64", candidate_ports(found)))


def test_ports_that_documents_name_are_candidates() -> None:
    found = reading(
        server(local={"port": "9000"}, replicas=2), drafter(local={"port": "65534", "devices": "3"})
    )

    assert {9000, 9001, 9002, 9003, 65534, 65535, 7000, 8080} <= candidate_ports(found)
    assert max(candidate_ports(found)) == 65535


def test_a_devices_configuration_is_one_that_the_device_takes() -> None:
    fleet = plan(
        server(),
        drafter(
            drafts=[{"name": "small", "source": "catalog://small", "model": "small-q4"}],
            drafting={"maxTokens": 5, "mode": "Match", "minConfidencePermille": 250},
            offline={"policy": "DraftOnly"},
            sequences=2,
        ),
    )

    config = edge_config(fleet.devices[0], Path("/m/small.gguf"), Path("/s/token"))

    parsed = EdgeConfig.model_validate(config)
    assert parsed.drafter.model is not None
    assert (parsed.drafter.model.name, parsed.drafter.threads) == ("small-q4", 1)
    assert (parsed.drafting.max_tokens, parsed.drafting.min_confidence) == (5, 0.25)
    assert parsed.offline.policy == "DraftOnly"
    assert parsed.token_file == Path("/s/token")
    assert parsed.tls is None


def test_a_verifier_elsewhere_is_reached_with_the_files_that_are_named() -> None:
    fleet = plan(
        drafter(
            local={"token-file": "t.txt", "ca-file": "ca.crt"},
            server={"address": "far.example:7000", "serverName": "verifier", "caSecretName": "c"},
        )
    )

    config = EdgeConfig.model_validate(edge_config(fleet.devices[0], None, Path("/s/token")))

    assert config.verifiers == ("far.example:7000",)
    assert config.token_file == Path("t.txt")
    assert config.tls is not None
    assert (config.tls.ca_file, config.tls.server_name) == (Path("ca.crt"), "verifier")


def test_no_token_is_asked_for_when_the_document_says_so() -> None:
    fleet = plan(server(auth={"mode": "None"}), drafter())

    assert "tokenFile" not in edge_config(fleet.devices[0], None, Path("/s/token"))
    assert "auth" not in verifier_config(fleet.verifiers[0], None, Path("/s/tokens"))


def test_a_verifiers_configuration_has_what_the_document_says() -> None:
    fleet = plan(
        server(
            model={"name": "big", "source": "catalog://big"},
            engine={"kind": "LlamaCpp", "slots": 3, "contextTokens": 512},
            batching={"stepTokens": 99},
            drainSeconds=7,
        )
    )

    config = verifier_config(fleet.verifiers[0], Path("/m/big.gguf"), Path("/s/tokens"))

    assert config["model"] == {"name": "big", "path": "/m/big.gguf"}
    assert config["engine"] == {
        "kind": "llamacpp",
        "threads": 4,
        "contextTokens": 512,
        "slots": 3,
    }
    assert config["batching"]["stepTokens"] == 99
    assert config["auth"] == {"tokensFile": "/s/tokens"}
    assert (config["drainSeconds"], config["replica"]) == (7, "s-0")


def test_what_a_process_would_refuse_is_known_before_anything_runs() -> None:
    llama = {"engine": {"kind": "LlamaCpp"}, "model": {"name": "m", "source": "catalog://m"}}
    check_configs(plan(server(**llama), drafter(drafts=[{"name": "m", "source": "catalog://m"}])))
    planned = plan(server())
    (verifier,) = planned.verifiers
    batching = verifier.spec.batching.model_copy(update={"max_queue": 65_537})
    spec = verifier.spec.model_copy(update={"batching": batching})
    beyond = replace(planned, verifiers=[replace(verifier, spec=spec)])
    with pytest.raises(BadInput, match=r"verifier s-0: batching\.maxQueue: .*65536"):
        check_configs(beyond)
