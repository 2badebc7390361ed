from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from sled_operator import drafter_status, rollout
from sled_operator.assignment.assign import Assigner
from sled_operator.assignment.classes import NodeFacts, device_class
from sled_operator.conditions import Reason, Type
from sled_operator.drafter_plan import (
    Fleet,
    Given,
    Placement,
    fleet,
    label_value,
    objects,
    parse_given,
    place,
)
from sled_operator.names import node_label, node_value
from sled_operator.resources.daemonset import drafter_daemonset
from sled_operator.revision import (
    Endpoint,
    Snapshot,
    UnreadableRevision,
    endpoint_of,
    restore,
)
from sled_operator.spec import EdgeDrafter, SLEDServer
from sled_operator.views import NodeView, PodView

Drafter = Callable[..., EdgeDrafter]
IMAGES = {"cpu": "edge", "cuda": "edge-cuda", "l4t": "edge-l4t"}
ENDPOINT = Endpoint("big.fleet.svc:7000", "big-tls", "big.fleet.svc", "big-tokens")
LABEL = "drafter.sled.dev/fleet.pis"


def snapshot(drafter: EdgeDrafter) -> Snapshot:
    return Snapshot(drafter.spec, ENDPOINT, IMAGES)


def node(name: str, online: bool = True, **labels: str) -> NodeView:
    base = {"sled.dev/device": "true", "sled.dev/device-class": "pi5"}
    return NodeView(NodeFacts(name, base | labels, "arm64", 4, 8000), online)


def placed(drafter: EdgeDrafter, nodes: Fleet) -> Placement:
    target = snapshot(drafter)
    return place(
        drafter,
        target,
        target,
        nodes,
        {target.name: Assigner(drafter.spec, {})},
        rollout.first(target.name),
        rollout.Quality(),
        rollout.datetime(2030, 1, 1, tzinfo=rollout.UTC),
    )


def test_selected_nodes_get_a_label_and_others_lose_it(drafter: Drafter) -> None:
    resource = drafter()
    stray = NodeView(NodeFacts("c", {LABEL: "ngram.pi5.x"}, "arm64", 4, 8000), True)
    nodes = fleet(resource, [node("a"), stray], [])
    placement = placed(resource, nodes)
    revision = snapshot(resource).name
    assert placement.values == {"a": Given("ngram", "pi5", revision), "c": None}
    assert label_value(placement.values["a"]) == f"ngram.pi5.{revision}"


def test_a_second_look_changes_nothing(drafter: Drafter) -> None:
    resource = drafter()
    value = node_value("ngram", "pi5", snapshot(resource).name)
    nodes = fleet(resource, [node("a", **{LABEL: value})], [])
    assert placed(resource, nodes).values == {}


def test_an_offline_node_keeps_its_label(drafter: Drafter) -> None:
    resource = drafter()
    nodes = fleet(resource, [node("a", online=False, **{LABEL: "ngram.pi5.older"})], [])
    placement = placed(resource, nodes)
    assert placement.values == {}
    assert placement.wanted == {"a": Given("ngram", "pi5", "older")}


def test_a_scribbled_label_is_repaired(drafter: Drafter) -> None:
    resource = drafter()
    nodes = fleet(resource, [node("a", **{LABEL: "nonsense"})], [])
    assert placed(resource, nodes).values["a"] == Given("ngram", "pi5", snapshot(resource).name)


def test_label_keys_fit_and_differ() -> None:
    long = node_label("n" * 63, "d" * 40)
    assert len(long.split("/")[1]) <= 63
    assert long != node_label("n" * 63, "d" * 39 + "e")
    assert len(node_value("d" * 32, "c" * 20, "r" * 8)) <= 63


def test_objects_of_two_revisions_stand_side_by_side(drafter: Drafter) -> None:
    old, new = drafter(sequences=2), drafter(sequences=3)
    snapshots = {each.name: each for each in (snapshot(old), snapshot(new))}
    in_use = [Given("ngram", "pi5", name) for name in snapshots]
    names = [(m["kind"], m["metadata"]["name"]) for m in objects(new, in_use, snapshots)]
    assert len(names) == len(set(names))
    kinds = [kind for kind, _ in names]
    assert kinds.count("DaemonSet") == 2
    assert kinds.count("ConfigMap") == 2
    assert kinds.count("ControllerRevision") == 2


def test_a_daemonset_runs_where_the_label_says_and_nowhere_else(drafter: Drafter) -> None:
    resource = drafter(podTemplate={"spec": {"nodeSelector": {"evil": "yes"}}})
    built = drafter_daemonset(
        resource, snapshot(resource), resource.spec.drafts[0], device_class("pi5")
    )
    template = built["spec"]["template"]
    assert template["spec"]["nodeSelector"] == {
        LABEL: node_value("ngram", "pi5", snapshot(resource).name)
    }
    selector = built["spec"]["selector"]["matchLabels"]
    assert selector.items() <= template["metadata"]["labels"].items()
    assert built["spec"]["updateStrategy"] == {"type": "OnDelete"}
    container = template["spec"]["containers"][0]
    assert container["resources"]["requests"]["memory"] == "64Mi"
    assert "hostPort" not in container["ports"][0]


def test_runtime_images_follow_the_class(drafter: Drafter) -> None:
    resource = drafter()

    def image(name: str) -> str:
        built = drafter_daemonset(
            resource, snapshot(resource), resource.spec.drafts[0], device_class(name)
        )
        return str(built["spec"]["template"]["spec"]["containers"][0]["image"])

    assert (image("pi5"), image("orin-nano"), image("x86-cuda")) == (
        "edge",
        "edge-l4t",
        "edge-cuda",
    )


def test_configuration_follows_the_spec(drafter: Drafter) -> None:
    resource = drafter(
        drafting={"maxTokens": 5, "minConfidencePermille": 250},
        drafts=[{"name": "small", "source": "pvc://claim/a.gguf", "threads": 2}],
    )
    revision = snapshot(resource)
    given = Given("small", "pi5", revision.name)
    config = next(
        m for m in objects(resource, [given], {revision.name: revision}) if m["kind"] == "ConfigMap"
    )
    settings = yaml.safe_load(config["data"]["small.pi5.yaml"])
    assert settings["verifiers"] == ["big.fleet.svc:7000"]
    assert settings["drafter"]["model"] == {"name": "small", "path": "/models/a.gguf"}
    assert settings["drafter"]["threads"] == 2
    assert settings["drafting"]["minConfidence"] == 0.25
    assert settings["tls"] == {"caFile": "/etc/sled-tls/ca.crt", "serverName": "big.fleet.svc"}
    assert settings["tokenFile"] == "/etc/sled-token/token"


def test_a_snapshot_survives_its_storage(drafter: Drafter) -> None:
    resource = drafter(sequences=2)
    stored = snapshot(resource)
    again = restore(stored.data(), drafter(sequences=9).spec)
    assert again.name == stored.name
    assert again.spec.sequences == 2
    with pytest.raises(UnreadableRevision):
        restore({"spec": {"sequences": "many"}}, resource.spec)
    with pytest.raises(UnreadableRevision):
        restore({}, resource.spec)


def test_settings_that_choose_or_pace_are_no_part_of_a_revision(drafter: Drafter) -> None:
    base = snapshot(drafter()).name
    for spec in (
        {"nodeSelector": {"x": "y"}},
        {"objective": "Latency"},
        {"maxMemoryPercent": 10},
        {"rollout": {"progress": "Paused"}},
    ):
        assert snapshot(drafter(**spec)).name == base
    assert snapshot(drafter(sequences=9)).name != base


def test_the_endpoint_of_a_server_by_name_and_by_address(
    drafter: Drafter, server: Callable[..., SLEDServer]
) -> None:
    assert endpoint_of(drafter(), None) is None
    assert endpoint_of(drafter(), server()) == ENDPOINT
    plain = server(tls={"mode": "Disabled"}, auth={"mode": "None"})
    assert endpoint_of(drafter(), plain) == Endpoint("big.fleet.svc:7000")
    there = {"address": "v:1", "caSecretName": "ca", "tokenSecretName": "t"}
    assert endpoint_of(drafter(server=there), None) == Endpoint("v:1", "ca", None, "t")


def test_label_values_are_read_back() -> None:
    assert parse_given("a.b.c") == Given("a", "b", "c")
    assert parse_given("a.b") is None
    assert parse_given("a..c") is None


def ready_pod(name: str, given: Given) -> PodView:
    return PodView(
        f"p-{name}",
        "fleet",
        name,
        True,
        "10.0.0.1",
        "",
        "pis",
        given.draft,
        given.device_class,
        given.revision,
    )


def conditions(numbers: dict[str, int], progress: rollout.Progress) -> dict[Type, Any]:
    return {seen.type: seen for seen in drafter_status.observe(numbers, progress, [])}


def test_status_counts_and_conditions(drafter: Drafter) -> None:
    resource = drafter()
    given = Given("ngram", "pi5", snapshot(resource).name)
    value = str(label_value(given))
    nodes = fleet(
        resource,
        [node("a", **{LABEL: value}), node("b", online=False, **{LABEL: value})],
        [ready_pod("a", given)],
    )
    placement = placed(resource, nodes)
    numbers = drafter_status.counts(nodes, placement)
    assert numbers == {"selected": 2, "assigned": 2, "ready": 1, "offline": 1, "unassigned": 0}
    seen = conditions(numbers, placement.progress)
    assert seen[Type.READY].status
    assert "1 are offline" in seen[Type.READY].message
    assert drafter_status.assignments(nodes, placement.wanted)[0]["ready"] == 1


def test_failed_rollouts_and_empty_fleets_degrade() -> None:
    numbers = {"selected": 1, "assigned": 1, "ready": 1, "offline": 0, "unassigned": 0}
    back = rollout.Progress(rollout.State.ROLLED_BACK, "a", "b", message="wave x failed")
    seen = conditions(numbers, back)
    assert seen[Type.DEGRADED].reason is Reason.ROLLOUT_ROLLED_BACK
    assert not seen[Type.READY].status
    assert seen[Type.AVAILABLE].status
    empty = dict.fromkeys(numbers, 0)
    assert conditions(empty, rollout.first("a"))[Type.DEGRADED].reason is Reason.NO_NODES


def test_progress_survives_the_status(drafter: Drafter) -> None:
    spec = drafter(rollout={"waves": [{"name": "a", "percent": 5}]}).spec.rollout
    before = rollout.Progress(rollout.State.SOAKING, "a", "b", 0, 1000.0, 1010.0, "soaks")
    status = drafter_status.rollout_status(spec, before)
    assert status["wave"] == "a"
    assert drafter_status.progress_from(status, "b") == before
    assert drafter_status.progress_from({"state": "Bogus"}, "b") == rollout.first("b")
    assert drafter_status.progress_from(None, "b") == rollout.first("b")
