"""A node keeps drafting until its next model is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sled_operator import rollout
from sled_operator.ahead import hold_back
from sled_operator.assignment.classes import device_class
from sled_operator.drafter_plan import Given, Placement, changes, fleet, objects
from sled_operator.names import AHEAD, DRAFTER, ahead_label, node_label
from sled_operator.resources.daemonset import ahead_daemonset, drafter_daemonset
from sled_operator.resources.service import drafter_service
from sled_operator.revision import Endpoint, Snapshot
from sled_operator.spec import EdgeDrafter
from sled_operator.views import node_view, pod_view

Drafter = Callable[..., EdgeDrafter]
DISK = {"type": "HostPath", "path": "/var/lib/sled"}
OLD, NEW = Given("tiny", "pi5", "r1"), Given("tiny", "pi5", "r2")
LABEL, NEXT = node_label("fleet", "pis"), ahead_label("fleet", "pis")


def snapshot(drafter: Drafter, source: str | None, **spec: Any) -> Snapshot:
    draft = (
        {"name": "tiny", "kind": "NGram"} if source is None else {"name": "tiny", "source": source}
    )
    images = {"cpu": "edge:1"}
    return Snapshot(drafter(drafts=[draft], **spec).spec, Endpoint("v:7000"), images)


def node(name: str, **labels: str) -> dict[str, Any]:
    ready = {"type": "Ready", "status": "True"}
    metadata = {"name": name, "labels": {"sled.dev/device": "true", **labels}}
    return {"metadata": metadata, "status": {"conditions": [ready]}}


def pod(name: str, given: Given, kind: str = DRAFTER, code: int | None = 0) -> dict[str, Any]:
    labels = {
        kind: "pis",
        "sled.dev/draft": given.draft,
        "sled.dev/device-class": given.device_class,
        "sled.dev/revision": given.revision,
    }
    state = {"running": {}} if code is None else {"terminated": {"exitCode": code}}
    return {
        "metadata": {"name": f"{name}-{kind}", "namespace": "fleet", "labels": labels},
        "spec": {"nodeName": name, "initContainers": [{"name": "fetch-model"}]},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "initContainerStatuses": [{"name": "fetch-model", "state": state}],
        },
    }


def held(drafter: Drafter, new: Snapshot, pods: list[dict[str, Any]], **labels: str) -> Placement:
    nodes = fleet(drafter(), [node_view(node("pi-1", **labels))], [pod_view(each) for each in pods])
    wanted = {"pi-1": NEW}
    progress = rollout.first("r2")
    placement = Placement(changes(nodes.given, wanted), wanted, {}, progress, None)
    old = snapshot(drafter, "hf://o/r/a.gguf", cache=DISK)
    return hold_back(nodes, placement, {"r1": old, "r2": new})


def test_a_serving_node_stays_and_fetches_first(drafter: Drafter) -> None:
    new = snapshot(drafter, "hf://o/r/b.gguf", cache=DISK)
    seen = held(drafter, new, [pod("pi-1", OLD)], **{LABEL: "tiny.pi5.r1"})
    assert (seen.wanted, seen.values) == ({"pi-1": OLD}, {})
    assert (seen.ahead, seen.ahead_values) == ({"pi-1": NEW}, {"pi-1": NEW})


@pytest.mark.parametrize(("code", "moves"), [(None, False), (1, False), (0, True)])
def test_it_moves_when_the_model_is_there(drafter: Drafter, code: int | None, moves: bool) -> None:
    new = snapshot(drafter, "hf://o/r/b.gguf", cache=DISK)
    labels = {LABEL: "tiny.pi5.r1", NEXT: "tiny.pi5.r2"}
    pods = [pod("pi-1", OLD), pod("pi-1", NEW, AHEAD, code)]
    seen = held(drafter, new, pods, **labels)
    assert seen.values == ({"pi-1": NEW} if moves else {})
    assert seen.ahead_values == ({"pi-1": None} if moves else {})


@pytest.mark.parametrize(
    ("source", "spec", "serves"),
    [
        ("hf://o/r/b.gguf", {"cache": DISK}, False),
        ("hf://o/r/b.gguf", {}, True),
        ("hf://o/r/a.gguf", {"cache": DISK}, True),
        ("oci://r/i:1", {"cache": DISK}, True),
        (None, {"cache": DISK}, True),
    ],
    ids=["serves nothing", "no lasting cache", "same model", "kubelet brings it", "no model"],
)
def test_everybody_else_moves_at_once(
    drafter: Drafter, source: str | None, spec: dict[str, Any], serves: bool
) -> None:
    pods = [pod("pi-1", OLD)] if serves else []
    seen = held(drafter, snapshot(drafter, source, **spec), pods, **{LABEL: "tiny.pi5.r1"})
    assert (seen.values, seen.ahead) == ({"pi-1": NEW}, {})


def test_the_fetching_pod_is_no_drafter(drafter: Drafter) -> None:
    resource = drafter()
    new = snapshot(drafter, "s3://models/b.gguf", cache=DISK)
    kind = device_class("pi5")
    draft = new.spec.drafts[0]
    made = ahead_daemonset(resource, new, draft, kind)["spec"]
    drafting = drafter_daemonset(resource, new, draft, kind)["spec"]
    labels = made["template"]["metadata"]["labels"]
    assert made["selector"]["matchLabels"].items() <= labels.items()
    assert not drafter_service(resource)["spec"]["selector"].items() <= labels.items()
    assert not drafting["selector"]["matchLabels"].items() <= labels.items()
    body = made["template"]["spec"]
    assert body["initContainers"] == drafting["template"]["spec"]["initContainers"]
    assert body["nodeSelector"].keys() == {NEXT}
    assert [each["name"] for each in body["volumes"]] == ["tmp", "cache"]
    assert "ports" not in body["containers"][0]


def test_objects_hold_one_daemonset_for_what_is_fetched_first(drafter: Drafter) -> None:
    new = snapshot(drafter, "s3://models/b.gguf", cache=DISK)
    names = [
        each["metadata"]["name"]
        for each in objects(drafter(), [], {"r2": new}, [NEW, NEW])
        if each["kind"] == "DaemonSet"
    ]
    assert len(names) == 1
    assert names[0].startswith("pis-ahead-")
