"""What the end-to-end scenarios ask for: nodes, values of the chart, resources. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sled_testkit.cluster_api import Object
from sled_testkit.node_machine import Kind

SYSTEM, FLEET = "sled-system", "inference"
RESOURCES = f"/apis/sled.dev/v1alpha1/namespaces/{FLEET}"
PODS = f"/api/v1/namespaces/{FLEET}/pods"
SERVER, DRAFTER = "target", "fleet"
TARGET, SMALL, LARGE = "smollm2-135m-q8_0", "smollm2-135m-q4_0", "smollm2-135m-q4_1"
DEVICES = ("pi4", "pi5", "orin")
"""All of them, once each has joined."""
PROMPT = "one, two, three,"
GPU = {"nvidia.com/gpu": "1"}

KINDS = {
    kind.name: kind
    for kind in (
        Kind("gpu-1", {"nvidia.com/gpu.present": "true"}, 16_384),
        Kind("gpu-2", {"nvidia.com/gpu.present": "true"}, 16_384),
        Kind("pi4", {"sled.dev/drafter": "true", "sled.dev/device-class": "pi4"}, 3_800),
        Kind("pi5", {"sled.dev/drafter": "true", "sled.dev/device-class": "pi5"}, 8_192),
        Kind("orin", {"sled.dev/drafter": "true", "sled.dev/device-class": "orin-nano"}, 7_600),
    )
}


def chart_values(**more: Any) -> dict[str, Any]:
    """What the scenarios say to the chart: quick looks, and the CPU image where a Jetson's would be."""
    values: dict[str, Any] = {
        "statsSeconds": 2,
        "nodeSelector": {"kubernetes.io/hostname": "gpu-2"},
        "workloadImages": {"drafter": {"l4t": "sled-dev/edge", "cuda": "sled-dev/edge"}},
    }
    return values | more


def server_spec(**more: Any) -> Object:
    """One verifier on a node with a GPU."""
    spec: Object = {
        "model": {"name": TARGET, "source": f"pvc://models/{TARGET}.gguf"},
        "engine": {"kind": "LlamaCpp", "threads": 2, "contextTokens": 1024, "slots": 8},
        "gpu": {"count": 1},
        "resources": {"requests": {"cpu": "200m", "memory": "256Mi"}},
        "drainSeconds": 10,
    }
    return spec | more


def drafter_spec(**more: Any) -> Object:
    """Two draft models; the larger one does not fit the smallest device."""
    spec: Object = {
        "server": {"name": SERVER},
        "nodeSelector": {"sled.dev/drafter": "true"},
        "drafts": [
            draft("small", SMALL, 200, 500),
            draft("large", LARGE, 3_000, 900, ["pi5", "orin-nano"]),
        ],
        # longer than it takes Kubernetes to give a node up and a verifier to start on another
        "offline": {"policy": "Refuse", "patienceSeconds": 240},
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
    }
    return spec | more


def draft(
    name: str, model: str, memory_mib: int, acceptance: int, classes: Sequence[str] = ()
) -> Object:
    """A draft model of the catalogue."""
    return {
        "deviceClasses": list(classes),
        "name": name,
        "model": model,
        "source": f"pvc://models/{model}.gguf",
        "threads": 1,
        "contextTokens": 1024,
        "profile": {"memoryMiB": memory_mib, "acceptancePermille": acceptance},
    }
