"""A node that is gone for good: its verifiers start elsewhere, and nobody has to say so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sled_testkit import cluster_nodes
from sled_testkit.cluster import ControlPlane
from sled_testkit.cluster_api import Object
from sled_testkit.cluster_operator import OperatorProcess, working_operator
from sled_testkit.sled_resources import CORE, apply, install, wait

QUICK = [
    {"key": f"node.kubernetes.io/{taint}", "operator": "Exists"}
    | {"effect": "NoExecute", "tolerationSeconds": 1}
    for taint in ("not-ready", "unreachable")
]


@pytest.fixture(scope="module")
def plane(own_plane: ControlPlane) -> ControlPlane:
    """Two nodes; a lost one leaves one."""
    install(own_plane)
    own_plane.create_nodes([cluster_nodes.node(name) for name in ("one", "two")])
    return own_plane


@pytest.fixture(scope="module", autouse=True)
def operator(plane: ControlPlane) -> Iterator[OperatorProcess]:
    with working_operator(plane) as process:
        yield process


def placed(found: Object | None) -> str:
    return str((found or {}).get("spec", {}).get("nodeName", ""))


def test_a_replica_on_a_lost_node_starts_elsewhere(plane: ControlPlane) -> None:
    spec: Object = {"model": {"name": "toy"}, "engine": {"kind": "Fake"}, "tolerations": QUICK}
    apply(plane, "SLEDServer", "moving", spec)
    before = wait(plane, f"{CORE}/pods", "moving-0", lambda found: bool(placed(found)))
    plane.take_offline(placed(before))

    def elsewhere(found: Object | None) -> bool:
        return placed(found) not in ("", placed(before))

    after = wait(plane, f"{CORE}/pods", "moving-0", elsewhere)
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    reasons = [each["reason"] for each in plane.api.items(f"{CORE}/events")]
    assert reasons.count("ReplicaReleased") == 1
