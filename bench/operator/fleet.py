"""What the benchmark puts into the cluster: nodes of three device classes, and the resources."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sled_testkit import cluster_nodes

CLASSES = (
    ("raspberry-pi-5", "arm64", {"cpu": "4", "memory": "8Gi"}),
    ("raspberry-pi-4", "arm64", {"cpu": "4", "memory": "4Gi"}),
    ("mini-pc", "amd64", {"cpu": "8", "memory": "16Gi"}),
)


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything."""

    nodes: int
    drafters: int
    servers: int
    joins: int
    idle_seconds: int


def node(index: int, size: Size, prefix: str = "node") -> dict[str, Any]:
    """One device of one of the sites; each EdgeDrafter has a site of its own."""
    name, architecture, capacity = CLASSES[index % len(CLASSES)]
    labels = {"sled.dev/device-class": name, "site": f"s{index % size.drafters}"}
    return cluster_nodes.node(
        f"{prefix}-{index}",
        labels=labels,
        capacity=capacity,
        architecture=architecture,
        address_index=index + 1,
    )


def resources(size: Size) -> Iterator[dict[str, Any]]:
    """SLEDServers, and EdgeDrafters that draft for them with a model or by prompt lookup."""
    for index in range(size.servers):
        spec: dict[str, Any] = {
            "model": {"name": f"target-{index}", "source": "hf://org/repo/target.gguf@main"},
            "replicas": 2,
        }
        yield _resource("SLEDServer", f"target-{index}", spec)
    drafts = [
        {"name": "lookup", "kind": "NGram"},
        {
            "name": "tiny",
            "source": "hf://org/repo/tiny.gguf@main",
            "profile": {
                "memoryMiB": 400,
                "acceptancePermille": 700,
                "speeds": [{"deviceClass": "default", "tokensPerSecondMilli": 30_000}],
            },
        },
    ]
    for index in range(size.drafters):
        spec = {
            "server": {"name": f"target-{index % size.servers}"},
            "nodeSelector": {"site": f"s{index}"},
            "drafts": drafts,
        }
        yield _resource("EdgeDrafter", f"fleet-{index}", spec)


def _resource(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default"}
    version = {"apiVersion": "sled.dev/v1alpha1", "kind": kind}
    return {**version, "metadata": metadata, "spec": spec}
