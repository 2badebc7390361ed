"""The fleet without its operator: it keeps serving, is taken over unchanged, and leaves nothing."""

from __future__ import annotations

import pytest

from sled_testkit import cluster_nodes
from sled_testkit.cluster import ControlPlane
from sled_testkit.cluster_api import Object
from sled_testkit.cluster_helm import Helm
from sled_testkit.cluster_operator import OperatorProcess
from sled_testkit.sled_resources import (
    APPS,
    CHART,
    CORE,
    HOME,
    SLED,
    WAIT_SECONDS,
    apply,
    install,
    ready,
    wait_for,
)

LABEL = "drafter.sled.dev/default.fleet"
OBJECTS = (
    f"{APPS}/statefulsets",
    f"{APPS}/daemonsets",
    f"{APPS}/controllerrevisions",
    f"{CORE}/configmaps",
    f"{CORE}/services",
    f"{CORE}/secrets",
    f"{CORE}/serviceaccounts",
    f"{CORE}/pods",
    "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
    "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
    "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
)
NOT_OURS = {"kubernetes", "default", "kube-root-ca.crt"}


@pytest.fixture(scope="module")
def fleet(own_plane: ControlPlane) -> ControlPlane:
    """A fleet that an operator has made, which is gone by now, chart and all."""
    install(own_plane)
    labels = {"sled.dev/device": "true"}
    own_plane.create_nodes([cluster_nodes.gpu_server("server")])
    own_plane.create_nodes([cluster_nodes.node(f"pi-{n}", labels=labels) for n in range(4)])
    operator = OperatorProcess(own_plane)
    operator.start()
    apply(own_plane, "SLEDServer", "toy", {"model": {"name": "toy"}, "engine": {"kind": "Fake"}})
    drafter = {
        "server": {"name": "toy"},
        "nodeSelector": labels,
        "drafts": [{"name": "lookup", "kind": "NGram"}],
    }
    apply(own_plane, "EdgeDrafter", "fleet", drafter)
    wait_for(own_plane, "SLEDServer", "toy", ready)
    wait_for(own_plane, "EdgeDrafter", "fleet", ready)
    operator.stop()
    helm(own_plane).run("uninstall", "sled", "-n", HOME, "--wait")
    return own_plane


def helm(plane: ControlPlane) -> Helm:
    return Helm(plane.folder, plane.kubeconfig)


def uids(plane: ControlPlane) -> set[str]:
    return {
        found["metadata"]["uid"]
        for collection in OBJECTS
        for found in plane.api.items(collection)
        if found["metadata"]["name"] not in NOT_OURS
    }


def labelled(nodes: dict[str, Object]) -> int:
    return sum(LABEL in node["metadata"]["labels"] for node in nodes.values())


def test_an_uninstalled_operator_leaves_a_fleet_that_serves(fleet: ControlPlane) -> None:
    fleet.kubectl("wait", "--for=condition=Ready", "sled/toy", "drafter/fleet", "--timeout=10s")
    assert len(fleet.api.items(f"{CORE}/pods")) == 5
    assert labelled({n["metadata"]["name"]: n for n in fleet.api.items("/api/v1/nodes")}) == 4


def test_an_operator_that_is_installed_again_takes_it_over_unchanged(fleet: ControlPlane) -> None:
    before = uids(fleet)
    mark = fleet.audit.mark()
    helm(fleet).run("install", "sled", str(CHART), "-n", HOME, values={"replicas": 0})
    operator = OperatorProcess(fleet, identity="second")
    operator.start()
    try:
        apply(fleet, "SLEDServer", "probe", {"model": {"name": "p"}, "engine": {"kind": "Fake"}})
        wait_for(fleet, "SLEDServer", "probe", ready)
        touched = {
            (entry.resource, entry.name)
            for entry in fleet.audit.writes(operator.user, mark)
            if entry.resource not in ("leases", "events") and not entry.name.startswith("probe")
        }
        assert touched == set()
        fleet.kubectl("delete", "sled/probe")
        # Kubernetes' garbage collector looks for new kinds of owners every 30 seconds
        fleet.api.wait_all(f"{CORE}/pods", lambda pods: len(pods) == 5, timeout_seconds=120.0)
        assert before <= uids(fleet)
    finally:
        operator.stop()


def test_what_is_deleted_while_no_operator_runs_is_cleaned_up(fleet: ControlPlane) -> None:
    """Kubernetes collects the objects by their owner; the labels of nodes wait for the operator."""
    fleet.kubectl("delete", "sled/toy", "drafter/fleet")
    for collection in OBJECTS:
        fleet.api.wait_all(
            collection,
            lambda found: not found.keys() - NOT_OURS,
            timeout_seconds=WAIT_SECONDS,
        )
    operator = OperatorProcess(fleet, identity="third")
    operator.start()
    try:
        fleet.api.wait_all("/api/v1/nodes", lambda nodes: labelled(nodes) == 0)
    finally:
        operator.stop()
    assert fleet.api.items(f"{SLED}/sledservers") == []
