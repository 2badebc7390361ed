"""The join kit's manifests: accepted by a real API server, and placed on the devices that the kit labels."""

from __future__ import annotations

from pathlib import Path

from sled_testkit import cluster_nodes
from sled_testkit.cluster import ControlPlane
from sled_testkit.cluster_api import Object

MANIFESTS = Path(__file__).resolve().parents[2] / "edge" / "k3s" / "manifests"
SETS = "/apis/apps/v1/namespaces/kube-system/daemonsets"
NAME = "sled-jetson-device-plugin"


def test_the_device_plugin_runs_on_jetsons_only(workloads: ControlPlane) -> None:
    jetson = {"sled.dev/runtime": "l4t", "sled.dev/device-class": "orin-nano"}
    pi = {"sled.dev/runtime": "cpu", "sled.dev/device-class": "pi5"}
    workloads.create_nodes(
        [cluster_nodes.node("jetson", labels=jetson), cluster_nodes.node("plain-pi", labels=pi)]
    )
    for action in (("apply", "--dry-run=server"), ("apply",), ("diff",)):
        workloads.kubectl(*action, "--server-side", "-f", str(MANIFESTS))

    def on_one(found: Object | None) -> bool:
        return bool((found or {}).get("status", {}).get("numberReady") == 1)

    found = workloads.api.wait(SETS, NAME, on_one) or {}
    assert found["status"]["desiredNumberScheduled"] == 1
    pods = workloads.api.items("/api/v1/namespaces/kube-system/pods")
    (pod,) = (each for each in pods if each["metadata"]["name"].startswith(NAME))
    assert pod["spec"]["nodeName"] == "jetson"
    assert pod["spec"]["runtimeClassName"] == "nvidia"
    workloads.kubectl("delete", "-f", str(MANIFESTS))
    for name in ("jetson", "plain-pi"):
        workloads.api.delete(f"/api/v1/nodes/{name}")
