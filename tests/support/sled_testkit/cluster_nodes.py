"""Manifests of fake nodes, as kubelets of small devices and GPU servers would register them.

Why: device classes are decided from labels, capacity and architecture, so a fake node must carry
what a real one carries. `cluster_stages.yaml` says how kwok plays their pods. Must not be used to
claim anything about containers: no image is pulled and no program runs on these nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STATE = "kwok.x-k8s.io/state"
"""Label of fake nodes: kwok plays those that are `online`."""
ONLINE, OFFLINE = "online", "offline"


def node(
    name: str,
    *,
    labels: Mapping[str, str] | None = None,
    capacity: Mapping[str, str] | None = None,
    architecture: str = "arm64",
    address_index: int = 1,
) -> dict[str, Any]:
    """One Ready node; `capacity` overrides cpu, memory and pods and may add extended resources."""
    resources = {"cpu": "4", "memory": "8Gi", "pods": "110", **(capacity or {})}
    known = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", STATE: ONLINE}
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "KubeletReady",
        "message": "kwok plays this node",
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {**known, "kubernetes.io/arch": architecture, **(labels or {})},
        },
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "conditions": [ready],
            "addresses": [
                {"type": "InternalIP", "address": _address(address_index)},
                {"type": "Hostname", "address": name},
            ],
            "nodeInfo": {
                "architecture": architecture,
                "operatingSystem": "linux",
                "kubeletVersion": "v1.36.3",
                "kernelVersion": "6.12.0",
                "osImage": "Debian GNU/Linux 13",
                "containerRuntimeVersion": "containerd://2.1.0",
                "kubeProxyVersion": "",
                "bootID": "",
                "machineID": "",
                "systemUUID": "",
            },
        },
    }


def raspberry_pi(name: str, *, memory: str = "8Gi", address_index: int = 1) -> dict[str, Any]:
    """A Raspberry Pi 5 with the label that K3s users commonly set."""
    return node(
        name,
        labels={"sled.dev/device-class": "raspberry-pi-5"},
        capacity={"cpu": "4", "memory": memory},
        address_index=address_index,
    )


def gpu_server(name: str, *, gpus: int = 1, address_index: int = 1) -> dict[str, Any]:
    """An x86 server with NVIDIA's device plugin and GPU feature discovery labels."""
    return node(
        name,
        labels={
            "nvidia.com/gpu.present": "true",
            "nvidia.com/gpu.product": "NVIDIA-L4",
            "nvidia.com/gpu.memory": "23034",
            "nvidia.com/gpu.count": str(gpus),
        },
        capacity={"cpu": "32", "memory": "128Gi", "nvidia.com/gpu": str(gpus)},
        architecture="amd64",
        address_index=address_index,
    )


def offline_status() -> dict[str, Any]:
    """The merge patch of a node's status that the node controller writes when a kubelet is lost."""
    unknown = {
        "type": "Ready",
        "status": "Unknown",
        "reason": "NodeStatusUnknown",
        "message": "Kubelet stopped posting node status.",
    }
    return {"status": {"conditions": [unknown]}}


def _address(index: int) -> str:
    """Set aside for benchmarks (RFC 2544): nobody's network is called by accident."""
    return f"198.19.{index >> 8 & 255}.{index & 255}"
