"""SLEDServers and EdgeDrafters in a test cluster: apply one, wait for what its status says.

Why: every test of the operator starts from the same few steps. Must not know what a test expects.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from sled_testkit.cluster import Cluster, ControlPlane
from sled_testkit.cluster_api import Object
from sled_testkit.cluster_helm import Helm

CHART = Path(__file__).resolve().parents[3] / "charts" / "sled"
HOME = "sled-system"
SLED = "/apis/sled.dev/v1alpha1/namespaces/default"
APPS = "/apis/apps/v1/namespaces/default"
CORE = "/api/v1/namespaces/default"
WAIT_SECONDS = 90.0
PLURALS = {"SLEDServer": "sledservers", "EdgeDrafter": "edgedrafters"}


def install(plane: ControlPlane) -> None:
    """The chart's definitions and rights, without its own pod."""
    helm = Helm(plane.folder, plane.kubeconfig)
    flags = ("-n", HOME, "--create-namespace")
    helm.run("install", "sled", str(CHART), *flags, values={"replicas": 0})


def apply(cluster: Cluster, kind: str, name: str, spec: Object) -> None:
    """kubectl apply of one resource in the namespace `default`."""
    document = {
        "apiVersion": "sled.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }
    cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(document))


def wait(
    cluster: Cluster, collection: str, name: str, done: Callable[[Object | None], bool]
) -> Object:
    """The object once `done` holds; WaitFailed when it does not in time."""
    return cluster.api.wait(collection, name, done, timeout_seconds=WAIT_SECONDS) or {}


def wait_for(
    cluster: Cluster, kind: str, name: str, done: Callable[[Object | None], bool]
) -> Object:
    """The same for a resource of ours."""
    return wait(cluster, f"{SLED}/{PLURALS[kind]}", name, done)


def ready(found: Object | None) -> bool:
    """Ready, and about the present generation."""
    status = (found or {}).get("status", {})
    generation = (found or {}).get("metadata", {}).get("generation")
    return condition(found, "Ready").get("status") == "True" and (
        status.get("observedGeneration") == generation
    )


def condition(found: Object | None, kind: str) -> Object:
    """One condition; empty when it is not there."""
    conditions = (found or {}).get("status", {}).get("conditions", ())
    return next((each for each in conditions if each["type"] == kind), {})


def because(reason: str) -> Callable[[Object | None], bool]:
    """Whether Ready carries that reason."""
    return lambda found: condition(found, "Ready").get("reason") == reason


def rollout(found: Object | None) -> dict[str, Any]:
    """The rollout's part of an EdgeDrafter's status."""
    return dict((found or {}).get("status", {}).get("rollout", {}))


def present(found: Object | None) -> bool:
    """Whether it exists."""
    return found is not None


def replicas(found: Object | None) -> int:
    """spec.replicas; -1 when there is none."""
    return int((found or {}).get("spec", {}).get("replicas", -1))


def address_of_this_machine() -> str:
    """An address that is not the loopback's, which no EndpointSlice may hold; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])
