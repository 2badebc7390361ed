"""Replicas that follow the queue in a real cluster: built in, by Kubernetes' autoscaler, by KEDA."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from sled_protocol.v1 import verifier_pb2 as pb
from sled_testkit import played_cluster
from sled_testkit.cluster import ControlPlane
from sled_testkit.cluster_api import Object
from sled_testkit.cluster_operator import OperatorProcess
from sled_testkit.metrics_api import MetricsApi
from sled_testkit.played_cluster import server
from sled_testkit.sled_resources import (
    APPS,
    CORE,
    address_of_this_machine,
    ready,
    replicas,
    wait,
    wait_for,
)
from sled_testkit.stats_stub import POD_CIDR, StubVerifiers

ROOT = Path(__file__).resolve().parents[2]
SETS = f"{APPS}/statefulsets"
AT_ONCE: Object = {
    "stabilizationSeconds": 0,
    "maxReplicasPerPeriod": 0,
    "maxPercentPerPeriod": 0,
}


@pytest.fixture(scope="module")
def plane(own_plane: ControlPlane) -> ControlPlane:
    return played_cluster.prepare(own_plane, edges=0)


@pytest.fixture(scope="module", autouse=True)
def operator(plane: ControlPlane) -> Iterator[OperatorProcess]:
    yield from played_cluster.running_operator(plane)


@pytest.fixture(scope="module")
def verifiers(plane: ControlPlane) -> Iterator[StubVerifiers]:
    yield from played_cluster.listening_verifiers()


def scaling(found: Object | None) -> dict[str, Any]:
    return dict((found or {}).get("status", {}).get("autoscaling") or {})


def events(plane: ControlPlane, name: str) -> dict[str, str]:
    """Message by reason."""
    field = f"involvedObject.name={name}"
    found = plane.api.items(f"{CORE}/events", fieldSelector=field)
    return {each["reason"]: each["message"] for each in found}


def own_fields(found: Object) -> list[str]:
    """Who owns a field of the spec."""
    return [
        str(entry["manager"])
        for entry in found["metadata"]["managedFields"]
        if "f:spec" in entry["fieldsV1"]
    ]


@pytest.fixture(scope="module")
def metrics(plane: ControlPlane) -> Iterator[MetricsApi]:
    """30 drafts wait, however many replicas share them."""

    def waiting() -> dict[str, int]:
        names = [each["metadata"]["name"] for each in plane.api.items(f"{CORE}/pods")]
        pods = [name for name in names if name.startswith("adapted-")]
        return {name: 30 // len(pods) for name in pods}

    served = MetricsApi("sled_queue_depth", waiting, address_of_this_machine(), plane.folder)
    served.register(plane)
    yield served
    served.close()


def test_the_queue_decides_and_status_and_event_say_why(
    plane: ControlPlane, verifiers: StubVerifiers
) -> None:
    verifiers.answer = lambda: pb.Stats(load=pb.Load(queue_depth=0))
    limits = {"mode": "Builtin", "maxReplicas": 4, "targetQueueDepth": 10, "scaleUp": AT_ONCE}
    server(plane, "busy", "played", autoscaling={**limits, "scaleDown": AT_ONCE})
    wait_for(plane, "SLEDServer", "busy", ready)
    address = plane.api.get(f"{CORE}/pods/busy-0")["status"]["podIP"]
    assert ip_address(address) in ip_network(POD_CIDR)
    shared = {"queue": 35}
    verifiers.answer = lambda: pb.Stats(load=pb.Load(queue_depth=shared["queue"]))
    wait(plane, SETS, "busy", lambda found: replicas(found) == 4)
    shared["queue"] = 9
    found = wait_for(
        plane, "SLEDServer", "busy", lambda each: scaling(each).get("desiredReplicas") == 4
    )
    assert "drafts wait at" in scaling(found)["message"]
    assert (
        "35 drafts wait at 1 replicas, 10 each: 1 to 4" in events(plane, "busy")["ScaledQueueLong"]
    )
    shared["queue"] = 0
    wait(plane, SETS, "busy", lambda each: replicas(each) == 1)
    after = wait_for(
        plane, "SLEDServer", "busy", lambda each: scaling(each)["desiredReplicas"] == 1
    )
    assert after["metadata"]["generation"] == 1
    assert "sled-operator" not in own_fields(after)
    plane.kubectl("delete", "sled/busy")


def test_without_an_answer_the_fallback_holds(plane: ControlPlane) -> None:
    limits = {"mode": "Builtin", "maxReplicas": 5, "fallbackReplicas": 3, "scaleUp": AT_ONCE}
    server(plane, "silent", "other", autoscaling=limits)
    wait(plane, SETS, "silent", lambda found: replicas(found) == 3)
    found = wait_for(
        plane, "SLEDServer", "silent", lambda each: scaling(each).get("desiredReplicas") == 3
    )
    assert (scaling(found)["reason"], found["metadata"]["generation"]) == ("NoMetrics", 1)
    assert "no verifier answers" in events(plane, "silent")["ScaledNoMetrics"]
    plane.kubectl("delete", "sled/silent")


@pytest.mark.parametrize("mode", ["HPA", "KEDA"])
def test_replicas_are_left_to_another_scaler(plane: ControlPlane, mode: str) -> None:
    """The scale subresource is what HPA and KEDA write; the operator lets the field go."""
    name = mode.lower()
    limits = {"mode": mode, "minReplicas": 2, "maxReplicas": 6, "targetQueueDepth": 5}
    server(plane, name, "other", autoscaling=limits)
    wait(plane, SETS, name, lambda found: replicas(found) == 2)
    scale = {"spec": {"replicas": 5}}
    plane.api.patch(f"{SETS}/{name}/scale", scale, fieldManager=f"the-{name}")
    plane.kubectl("annotate", f"sled/{name}", "look=again")
    found = wait_for(
        plane, "SLEDServer", name, lambda each: (each or {})["status"].get("readyReplicas") == 5
    )
    assert plane.api.get(f"{SETS}/{name}")["spec"]["replicas"] == 5
    assert scaling(found) == {}
    autoscalers = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers"
    made = plane.api.find(f"{autoscalers}/{name}")
    if mode == "HPA":
        assert made is not None
        (metric,) = made["spec"]["metrics"]
        assert metric["pods"]["metric"]["name"] == "sled_queue_depth"
        assert made["spec"]["scaleTargetRef"]["name"] == name
    else:
        assert made is None
    plane.kubectl("delete", f"sled/{name}")


def test_a_real_autoscaler_follows_the_metric_of_the_verifiers(
    plane: ControlPlane, metrics: MetricsApi
) -> None:
    """Kubernetes' own controller, through the custom metrics API: up by the queue, then down."""
    limits: Object = {"mode": "HPA", "minReplicas": 1, "maxReplicas": 4, "targetQueueDepth": 10}
    limits |= {"scaleDown": AT_ONCE, "scaleUp": AT_ONCE}
    server(plane, "adapted", "other", autoscaling=limits)
    wait(plane, SETS, "adapted", lambda found: replicas(found) == 3)
    assert metrics.asked
    found = wait_for(
        plane,
        "SLEDServer",
        "adapted",
        lambda each: (each or {})["status"].get("readyReplicas") == 3,
    )
    assert found["metadata"]["generation"] == 1
    metrics.values = lambda: {f"adapted-{number}": 1 for number in range(3)}
    wait(plane, SETS, "adapted", lambda each: replicas(each) == 1)
    plane.kubectl("delete", "sled/adapted")


def test_the_example_for_keda_is_what_keda_takes(plane: ControlPlane) -> None:
    standin = Path(__file__).parent / "data" / "standins" / "scaledobjects.yaml"
    plane.kubectl("apply", "-f", str(standin))
    plane.kubectl("wait", "--for=condition=Established", "crd/scaledobjects.keda.sh")
    plane.kubectl("apply", "-f", str(ROOT / "examples" / "gitops" / "keda" / "scaledobject.yaml"))
    found = plane.api.get("/apis/keda.sh/v1alpha1/namespaces/default/scaledobjects/target")
    text = (ROOT / "examples" / "gitops" / "keda" / "scaledobject.yaml").read_text()
    assert found["spec"] == yaml.safe_load(text)["spec"]
    assert "sled_queue_depth" in found["spec"]["triggers"][0]["metadata"]["query"]
    plane.kubectl("delete", "scaledobject/target")
