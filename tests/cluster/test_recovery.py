"""The operator through crashes and outages: it converges, with nothing orphaned and nothing doubled.

The instants of the kills are drawn from a fixed seed; SLED_TEST_KILLS sets how many (50 for a long
run), SLED_TEST_OUTAGE_SECONDS how long the API server is away.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sled_testkit import cluster_nodes
from sled_testkit.cluster import ControlPlane
from sled_testkit.cluster_api import Object
from sled_testkit.cluster_helm import Helm
from sled_testkit.cluster_operator import OperatorProcess

ROOT = Path(__file__).resolve().parents[2]
HOME = "sled-system"
NODES = 12
KILLS = int(os.environ.get("SLED_TEST_KILLS", "6"))
OUTAGE_SECONDS = float(os.environ.get("SLED_TEST_OUTAGE_SECONDS", "15"))
RESOURCES = "/apis/sled.dev/v1alpha1/namespaces/default"
APPS = "/apis/apps/v1/namespaces/default"
NODE_LABEL = "drafter.sled.dev/"
CONVERGED_SECONDS = 120.0
BOTH = (("sledservers", "toy"), ("edgedrafters", "fleet"))


@pytest.fixture(scope="module")
def plane(own_plane: ControlPlane) -> ControlPlane:
    """A fleet with one verifier and one EdgeDrafter, and the chart's rights."""
    helm = Helm(own_plane.folder, own_plane.kubeconfig)
    chart = str(ROOT / "charts" / "sled")
    helm.run("install", "sled", chart, "-n", HOME, "--create-namespace", values={"replicas": 0})
    labels = {"sled.dev/drafter": "true", "sled.dev/device-class": "raspberry-pi-5"}
    own_plane.create_nodes([cluster_nodes.gpu_server("server")])
    own_plane.create_nodes(
        [cluster_nodes.node(f"pi-{index}", labels=labels) for index in range(NODES)]
    )
    server: Object = {"model": {"name": "toy"}, "engine": {"kind": "Fake"}}
    drafter: Object = {
        "server": {"name": "toy"},
        "nodeSelector": {"sled.dev/drafter": "true"},
        "drafts": [{"name": "lookup", "kind": "NGram"}],
    }
    _create(own_plane, "SLEDServer", "toy", server)
    _create(own_plane, "EdgeDrafter", "fleet", drafter)
    return own_plane


def _create(plane: ControlPlane, kind: str, name: str, spec: Object) -> None:
    body = {"apiVersion": "sled.dev/v1alpha1", "kind": kind, "metadata": {"name": name}}
    plane.api.create(f"{RESOURCES}/{kind.lower()}s", {**body, "spec": spec})


@pytest.fixture
def operator(plane: ControlPlane) -> Iterator[OperatorProcess]:
    process = OperatorProcess(plane)
    process.start()
    yield process
    process.stop()


def test_killed_at_random_instants_it_converges(
    plane: ControlPlane, operator: OperatorProcess, record_property: Callable[[str, object], None]
) -> None:
    """Every second kill hits an operator that is still recovering from the one before."""
    chance = random.Random(20_260)
    for index in range(KILLS):
        _change(plane, index)
        time.sleep(chance.uniform(0.0, 2.0))  # the instant of the crash is what is tested
        operator.kill()
        killed = time.monotonic()
        operator.start(wait=False)
        if index % 2:
            _wait_until_converged(plane)
            record_property("seconds_to_converge", round(time.monotonic() - killed, 2))
            _assert_nothing_orphaned_or_doubled(plane)
    _wait_until_converged(plane)
    _assert_nothing_orphaned_or_doubled(plane)
    assert plane.audit.forbidden(operator.user) == []
    record_property("kills", KILLS)


def test_a_new_leader_writes_nothing(plane: ControlPlane, operator: OperatorProcess) -> None:
    _wait_until_converged(plane)
    second = OperatorProcess(plane, identity="operator-1")
    second.start(wait=False)
    try:
        operator.stop()
        mark = plane.audit.mark()
        _wait_until_leading(second)
        _wait_until_it_has_looked(second)
        writes = Counter((each.resource, each.verb) for each in plane.audit.writes(since=mark))
        assert writes.keys() <= {("leases", "update")}
    finally:
        second.stop()


def test_the_second_replica_takes_over_after_a_crash(
    plane: ControlPlane, operator: OperatorProcess
) -> None:
    second = OperatorProcess(plane, identity="operator-1")
    second.start(wait=False)
    try:
        _wait_for(lambda: second.metric("sled_operator_leading") == 0.0)
        operator.kill()
        _wait_until_leading(second)
        _change(plane, 100)
        _wait_until_converged(plane)
        _assert_nothing_orphaned_or_doubled(plane)
    finally:
        second.stop()


def test_the_api_server_goes_away_and_comes_back(
    plane: ControlPlane, operator: OperatorProcess, record_property: Callable[[str, object], None]
) -> None:
    _wait_until_converged(plane)
    plane.stop_apiserver()
    time.sleep(OUTAGE_SECONDS)  # the outage itself
    plane.start_apiserver()
    returned = time.monotonic()
    if operator.pid is None:  # it gave up the lease; Kubernetes restarts the container
        operator.start()
    _change(plane, 200)
    for plural, name in BOTH:
        plane.api.wait(f"{RESOURCES}/{plural}", name, _seen, timeout_seconds=CONVERGED_SECONDS)
    record_property("operator_seconds_after_outage", round(time.monotonic() - returned, 2))
    _wait_until_converged(plane)
    record_property("seconds_after_outage", round(time.monotonic() - returned, 2))
    record_property("outage_seconds", OUTAGE_SECONDS)
    _assert_nothing_orphaned_or_doubled(plane)


def _change(plane: ControlPlane, index: int) -> None:
    """A new revision of the drafters, and another number of verifiers."""
    drafting = {"spec": {"drafting": {"maxTokens": 1 + index % 16}}}
    plane.api.patch(f"{RESOURCES}/edgedrafters/fleet", drafting)
    plane.api.patch(f"{RESOURCES}/sledservers/toy", {"spec": {"replicas": 1 + index % 3}})


def _seen(found: Object | None) -> bool:
    """Whether the operator has acted on the newest generation."""
    status = (found or {}).get("status", {})
    return bool(status.get("observedGeneration") == (found or {})["metadata"]["generation"])


def _wait_until_converged(plane: ControlPlane) -> None:
    def current(found: Object | None) -> bool:
        status = (found or {}).get("status", {})
        conditions = {each["type"]: each["status"] for each in status.get("conditions", ())}
        return (
            _seen(found)
            and conditions.get("Ready") == "True"
            and conditions.get("Progressing") == "False"
        )

    for plural, name in BOTH:
        plane.api.wait(f"{RESOURCES}/{plural}", name, current, timeout_seconds=CONVERGED_SECONDS)


def _assert_nothing_orphaned_or_doubled(plane: ControlPlane) -> None:
    fleet = plane.api.get(f"{RESOURCES}/edgedrafters/fleet")
    revision = fleet["status"]["rollout"]["targetRevision"]
    plane.api.wait_all(f"{APPS}/daemonsets", lambda found: len(found) == 1)
    (daemonset,) = plane.api.items(f"{APPS}/daemonsets")
    assert daemonset["metadata"]["labels"]["sled.dev/revision"] == revision
    pods = plane.api.wait_all(
        "/api/v1/namespaces/default/pods",
        lambda found: len(found) == NODES,
        labelSelector="sled.dev/drafter=fleet",
    )
    assert set(Counter(pod["spec"]["nodeName"] for pod in pods.values()).values()) == {1}
    for node in plane.api.items("/api/v1/nodes", labelSelector="sled.dev/drafter=true"):
        labels = [key for key in node["metadata"]["labels"] if key.startswith(NODE_LABEL)]
        assert len(labels) == 1
    server = plane.api.get(f"{RESOURCES}/sledservers/toy")
    (statefulset,) = plane.api.items(f"{APPS}/statefulsets")
    assert statefulset["spec"]["replicas"] == server["spec"]["replicas"]


def _wait_until_leading(process: OperatorProcess) -> None:
    _wait_for(lambda: process.metric("sled_operator_leading") == 1.0)


def _wait_until_it_has_looked(process: OperatorProcess) -> None:
    def looked() -> bool:
        text = process.metrics()
        return all(
            f'sled_operator_reconciles_total{{kind="{kind}",result="ok"}}' in text
            for kind in ("SLEDServer", "EdgeDrafter")
        )

    _wait_for(looked)


def _wait_for(done: Any, timeout_seconds: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.1)
