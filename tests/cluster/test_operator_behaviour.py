"""What the operator does to a real cluster: objects, status, repair, scaling, rollouts, silence."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from sled_testkit import cluster_nodes
from sled_testkit.cluster import ControlPlane
from sled_testkit.cluster_api import Object
from sled_testkit.cluster_operator import OperatorProcess
from sled_testkit.sled_resources import (
    APPS,
    CORE,
    SLED,
    WAIT_SECONDS,
    address_of_this_machine,
    apply,
    because,
    install,
    ready,
    replicas,
    rollout,
    wait,
)

EDGES = 10
RENEWALS = 4
FLEET_LABEL = "drafter.sled.dev/default.fleet"


@pytest.fixture(scope="module")
def plane(own_plane: ControlPlane) -> ControlPlane:
    """One server node, ten devices, and the chart's rights."""
    install(own_plane)
    labels = {"sled.dev/device": "true", "sled.dev/device-class": "pi5"}
    own_plane.create_nodes([cluster_nodes.gpu_server("server")])
    own_plane.create_nodes(
        [
            cluster_nodes.node(f"pi-{index}", labels=labels, address_index=index + 2)
            for index in range(EDGES)
        ]
    )
    return own_plane


@pytest.fixture(scope="module")
def operator(plane: ControlPlane) -> Iterator[OperatorProcess]:
    settings = {"SLED_STATS_SECONDS": "2", "SLED_POD_IP": address_of_this_machine()}
    process = OperatorProcess(plane, settings=settings)
    process.start()
    yield process
    process.stop()


def drafters(**spec: Any) -> Object:
    return {
        "server": {"name": "toy"},
        "nodeSelector": {"sled.dev/device": "true"},
        "drafts": [{"name": "lookup", "kind": "NGram"}],
        **spec,
    }


@pytest.fixture(scope="module")
def fleet(plane: ControlPlane, operator: OperatorProcess) -> ControlPlane:
    """A SLEDServer and an EdgeDrafter that are Ready."""
    apply(plane, "SLEDServer", "toy", {"model": {"name": "toy"}, "engine": {"kind": "Fake"}})
    apply(plane, "EdgeDrafter", "fleet", drafters())
    wait(plane, f"{SLED}/sledservers", "toy", ready)
    wait(plane, f"{SLED}/edgedrafters", "fleet", ready)
    return plane


def revisions(plane: ControlPlane) -> Counter[str]:
    labels = [node["metadata"]["labels"] for node in plane.api.items("/api/v1/nodes")]
    values = [each[FLEET_LABEL] for each in labels if FLEET_LABEL in each]
    return Counter(value.rsplit(".", 1)[1] for value in values)


def test_every_device_drafts_and_the_status_says_so(fleet: ControlPlane) -> None:
    found = wait(fleet, f"{SLED}/edgedrafters", "fleet", ready)
    assert found["status"]["summary"] == f"{EDGES}/{EDGES}"
    assert revisions(fleet).total() == EDGES
    (drafter_set,) = fleet.api.items(f"{APPS}/daemonsets")
    assert drafter_set["status"]["desiredNumberScheduled"] == EDGES
    server = fleet.api.get(f"{SLED}/sledservers/toy")
    assert server["status"]["address"] == "toy.default.svc:7000"
    fleet.kubectl("wait", "--for=condition=Ready", "sled/toy", "drafter/fleet", "--timeout=10s")


def test_nothing_is_written_when_nothing_happens(
    fleet: ControlPlane, operator: OperatorProcess
) -> None:
    """Four lease renewals long (about 20 s, ten rounds of stats), counted in the audit log."""
    mark = fleet.audit.mark()
    deadline = time.monotonic() + WAIT_SECONDS

    def renewals() -> int:
        entries = fleet.audit.writes(operator.user, mark)
        return sum(entry.resource == "leases" for entry in entries)

    while renewals() < RENEWALS and time.monotonic() < deadline:
        time.sleep(0.5)
    assert renewals() >= RENEWALS
    entries = fleet.audit.writes(operator.user, mark)
    assert [entry for entry in entries if entry.resource != "leases"] == []


def test_a_restart_writes_nothing(fleet: ControlPlane, operator: OperatorProcess) -> None:
    mark = fleet.audit.mark()
    operator.kill()
    operator.start()
    node = cluster_nodes.node("late", labels={"sled.dev/device": "true"}, address_index=90)
    fleet.create_nodes([node])
    fleet.api.wait("/api/v1/nodes", "late", _labelled, timeout_seconds=WAIT_SECONDS)
    wait(fleet, f"{SLED}/edgedrafters", "fleet", lambda found: _summary(found) == "11/11")
    written = {(entry.resource, entry.name) for entry in fleet.audit.writes(operator.user, mark)}
    allowed = {"leases", "nodes", "edgedrafters/status", "events", "daemonsets", "configmaps"}
    assert {resource for resource, _ in written} <= allowed
    assert {name for resource, name in written if resource == "nodes"} == {"late"}
    fleet.api.delete("/api/v1/nodes/late")
    wait(fleet, f"{SLED}/edgedrafters", "fleet", lambda found: _summary(found) == "10/10")


def _labelled(found: Object | None) -> bool:
    return FLEET_LABEL in (found or {}).get("metadata", {}).get("labels", {})


def _summary(found: Object | None) -> str:
    return str((found or {}).get("status", {}).get("summary", ""))


def test_drift_is_repaired(fleet: ControlPlane, operator: OperatorProcess) -> None:
    service = fleet.api.get(f"{CORE}/services/toy")["metadata"]["uid"]
    fleet.kubectl("delete", "service/toy", "configmap/toy-config")
    fleet.kubectl("scale", "statefulset/toy", "--replicas=4")
    fleet.kubectl("label", "node/pi-0", f"{FLEET_LABEL}=nonsense", "--overwrite")

    def other(found: Object | None) -> bool:
        return found is not None and found["metadata"]["uid"] != service

    wait(fleet, f"{CORE}/services", "toy", other)
    wait(fleet, f"{CORE}/configmaps", "toy-config", lambda found: found is not None)
    wait(fleet, f"{APPS}/statefulsets", "toy", lambda found: replicas(found) == 1)
    fleet.api.wait(
        "/api/v1/nodes",
        "pi-0",
        lambda found: (
            _labelled(found) and (found or {})["metadata"]["labels"][FLEET_LABEL] != "nonsense"
        ),
    )


def test_kubectl_scale_reaches_the_pods(fleet: ControlPlane, operator: OperatorProcess) -> None:
    fleet.kubectl("scale", "sled/toy", "--replicas=3")

    def three(found: Object | None) -> bool:
        return ready(found) and (found or {})["status"]["readyReplicas"] == 3

    found = wait(fleet, f"{SLED}/sledservers", "toy", three)
    assert found["status"]["selector"] == "sled.dev/server=toy"


def test_a_server_that_sleeps_is_woken_by_a_knock(
    plane: ControlPlane, operator: OperatorProcess
) -> None:
    scaling = {"mode": "Builtin", "minReplicas": 0}
    spec = {"model": {"name": "toy"}, "engine": {"kind": "Fake"}, "replicas": 0}
    apply(plane, "SLEDServer", "sleeper", {**spec, "autoscaling": scaling})
    slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
    door = wait(plane, slices, "sleeper-activator", lambda found: found is not None)
    wait(plane, f"{APPS}/statefulsets", "sleeper", lambda found: replicas(found) == 0)
    address = door["endpoints"][0]["addresses"][0]
    with socket.create_connection((address, door["ports"][0]["port"]), timeout=5.0):
        pass
    wait(plane, f"{APPS}/statefulsets", "sleeper", lambda found: replicas(found) == 1)
    wait(plane, slices, "sleeper-activator", lambda found: found is None)
    found = plane.api.get(f"{SLED}/sledservers/sleeper")
    assert found["spec"]["replicas"] == 0
    plane.kubectl("delete", "sled/sleeper")


def test_a_bad_neighbour_stops_nobody(fleet: ControlPlane, operator: OperatorProcess) -> None:
    apply(fleet, "EdgeDrafter", "lost", drafters(server={"name": "nobody"}))
    hungry = [{"name": "huge", "kind": "NGram", "profile": {"memoryMiB": 1_000_000}}]
    apply(fleet, "EdgeDrafter", "hungry", drafters(drafts=hungry))
    template = {"spec": {"containers": [{"name": "verifier", "image": ""}]}}
    broken = {"model": {"name": "t"}, "engine": {"kind": "Fake"}, "podTemplate": template}
    apply(fleet, "SLEDServer", "broken", broken)

    wait(fleet, f"{SLED}/edgedrafters", "lost", because("ServerNotFound"))
    found = wait(fleet, f"{SLED}/edgedrafters", "hungry", because("NodesUnassigned"))
    assert found["status"]["unassignedNodes"][0]["reason"] == "MemoryTooSmall"
    found = wait(fleet, f"{SLED}/sledservers", "broken", because("ObjectRefused"))
    assert "image" in found["status"]["conditions"][0]["message"]
    fleet.kubectl("delete", "drafter/lost", "drafter/hungry", "sled/broken")
    wait(fleet, f"{SLED}/edgedrafters", "fleet", ready)


def _state(found: Object | None) -> str:
    return str(rollout(found).get("state", ""))


def test_waves_pass_an_offline_node_which_follows_later(
    fleet: ControlPlane, operator: OperatorProcess
) -> None:
    before = revisions(fleet)
    fleet.take_offline("pi-3")
    wait(fleet, f"{SLED}/edgedrafters", "fleet", _one_offline)
    waves = [
        {"name": "first", "percent": 20, "soakSeconds": 2},
        {"name": "half", "percent": 50, "soakSeconds": 2},
    ]
    apply(fleet, "EdgeDrafter", "fleet", drafters(sequences=5, rollout={"waves": waves}))
    seen: set[tuple[str, str]] = set()

    def complete(found: Object | None) -> bool:
        rollout = (found or {}).get("status", {}).get("rollout", {})
        seen.add((rollout.get("wave", ""), rollout.get("state", "")))
        moved = rollout.get("targetRevision") not in before
        return moved and ready(found) and rollout.get("state") == "Complete"

    found = wait(fleet, f"{SLED}/edgedrafters", "fleet", complete)
    assert {wave for wave, state in seen if state == "Soaking"} == {"first", "half"}
    target = found["status"]["rollout"]["stableRevision"]
    (old,) = before
    assert revisions(fleet) == {target: EDGES - 1, old: 1}
    fleet.bring_online("pi-3")
    wait(fleet, f"{SLED}/edgedrafters", "fleet", lambda each: _summary(each) == "10/10")
    assert revisions(fleet) == {target: EDGES}
    fleet.api.wait_all(f"{APPS}/daemonsets", lambda sets: len(sets) == 1)


def _one_offline(found: Object | None) -> bool:
    return bool((found or {}).get("status", {}).get("nodes", {}).get("offline") == 1)


def test_a_bad_revision_is_rolled_back_and_touches_one_wave_only(
    fleet: ControlPlane, operator: OperatorProcess
) -> None:
    before = revisions(fleet)
    gates = {"timeoutSeconds": 10}
    rollout = {"waves": [{"name": "canary", "percent": 20, "soakSeconds": 2, "gates": gates}]}
    spec = drafters(sequences=5, image="registry.example.com/broken:1", rollout=rollout)
    apply(fleet, "EdgeDrafter", "fleet", spec)
    most = 0

    def rolled_back(found: Object | None) -> bool:
        nonlocal most
        most = max(most, revisions(fleet).total() - revisions(fleet)[next(iter(before))])
        return _state(found) == "RolledBack"

    found = wait(fleet, f"{SLED}/edgedrafters", "fleet", rolled_back)
    assert "wave canary failed: 0 of 2 online nodes" in found["status"]["rollout"]["message"]
    assert most == 2
    fleet.api.wait_all(f"{APPS}/daemonsets", lambda sets: len(sets) == 1)
    assert revisions(fleet) == before
    reasons = {c["type"]: c["reason"] for c in found["status"]["conditions"]}
    assert reasons["Degraded"] == "RolloutRolledBack"
    apply(fleet, "EdgeDrafter", "fleet", drafters(sequences=5))
    wait(fleet, f"{SLED}/edgedrafters", "fleet", ready)


def test_what_is_deleted_leaves_nothing(fleet: ControlPlane, operator: OperatorProcess) -> None:
    fleet.kubectl("delete", "drafter/fleet", "sled/toy")
    for collection in (
        f"{APPS}/daemonsets",
        f"{APPS}/statefulsets",
        f"{APPS}/controllerrevisions",
        f"{CORE}/secrets",
        f"{CORE}/pods",
    ):
        fleet.api.wait_all(collection, lambda found: not found, timeout_seconds=WAIT_SECONDS)
    fleet.api.wait_all(
        "/api/v1/nodes",
        lambda found: not any(_labelled(node) for node in found.values()),
        timeout_seconds=WAIT_SECONDS,
    )
    assert fleet.audit.forbidden(operator.user) == []
