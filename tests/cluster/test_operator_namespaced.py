"""`watchNamespace`: an operator with rights in one namespace works there and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml

from sled_testkit import cluster_nodes
from sled_testkit.cluster import ControlPlane
from sled_testkit.cluster_api import Object
from sled_testkit.cluster_helm import Helm
from sled_testkit.cluster_operator import OperatorProcess
from sled_testkit.sled_resources import CHART, HOME, apply, present, ready, wait_for

NORTH = "north"
SERVER: Object = {"model": {"name": "toy"}, "engine": {"kind": "Fake"}}
DRAFTER: Object = {
    "server": {"name": "toy"},
    "nodeSelector": {"sled.dev/device": "true"},
    "drafts": [{"name": "lookup", "kind": "NGram"}],
}


@pytest.fixture(scope="module")
def operator(own_plane: ControlPlane) -> Iterator[OperatorProcess]:
    own_plane.kubectl("create", "namespace", NORTH)
    values = {"replicas": 0, "watchNamespace": NORTH}
    helm = Helm(own_plane.folder, own_plane.kubeconfig)
    helm.run("install", "sled", str(CHART), "-n", HOME, "--create-namespace", values=values)
    own_plane.create_nodes([cluster_nodes.gpu_server("server")])
    own_plane.create_nodes([cluster_nodes.node("pi", labels={"sled.dev/device": "true"})])
    process = OperatorProcess(own_plane, settings={"SLED_WATCH_NAMESPACE": NORTH})
    process.start()
    yield process
    process.stop()


def test_it_works_in_its_namespace_and_asks_for_nothing_elsewhere(
    own_plane: ControlPlane, operator: OperatorProcess
) -> None:
    apply(own_plane, "SLEDServer", "elsewhere", SERVER)
    for kind, name, spec in (("SLEDServer", "toy", SERVER), ("EdgeDrafter", "fleet", DRAFTER)):
        body = {"apiVersion": "sled.dev/v1alpha1", "kind": kind, "metadata": {"name": name}}
        document = yaml.safe_dump({**body, "spec": spec})
        own_plane.kubectl("apply", "-n", NORTH, "-f", "-", stdin=document)
    group = f"/apis/sled.dev/v1alpha1/namespaces/{NORTH}"
    own_plane.api.wait(f"{group}/sledservers", "toy", ready, timeout_seconds=60.0)
    own_plane.api.wait(f"{group}/edgedrafters", "fleet", ready, timeout_seconds=60.0)
    found = wait_for(own_plane, "SLEDServer", "elsewhere", present)
    assert "conditions" not in found["status"]  # the default that the definition gives
    touched = {entry.namespace for entry in own_plane.audit.writes(operator.user)}
    assert touched <= {NORTH, HOME, ""}
    assert own_plane.audit.forbidden(operator.user) == []
