"""The reconcilers over the in-memory cluster: convergence, silence, repair, and bad neighbours."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sled_operator.cluster import kinds
from sled_operator.cluster.base import ClusterError, Resource
from sled_operator.cluster.fake import FakeCluster
from sled_operator.metrics import Metrics
from sled_operator.runtime import Operator
from sled_operator.settings import Settings
from sled_operator.workqueue import Retry
from sled_operator.world import DRAFTER, LABEL, SERVER

Build = Callable[..., dict[str, Any]]
KEY = ("fleet", "big")
NODE_LABEL = "drafter.sled.dev/fleet.pis"


@asynccontextmanager
async def operating(cluster: FakeCluster) -> AsyncIterator[Operator]:
    """An operator whose watches run and whose looks the test asks for."""
    operator = Operator(cluster, Settings(), Metrics())
    await operator.prime()
    tasks = [asyncio.create_task(each.run()) for each in operator.world.informers]
    async with asyncio.timeout(10):
        for informer in operator.world.informers:
            await informer.synced.wait()
    try:
        yield operator
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        operator.queue.close()


def node(name: str, ready: str = "True") -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "labels": {"sled.dev/device": "true", "sled.dev/device-class": "pi5"},
        },
        "status": {
            "allocatable": {"cpu": "4", "memory": "8Gi"},
            "nodeInfo": {"architecture": "arm64"},
            "conditions": [{"type": "Ready", "status": ready}],
        },
    }


def found(cluster: FakeCluster, resource: Resource, name: str) -> dict[str, Any]:
    document = cluster.find(resource, "" if not resource.namespaced else "fleet", name)
    assert document is not None
    return document


def ready_condition(document: dict[str, Any]) -> dict[str, Any]:
    return {c["type"]: c for c in document["status"]["conditions"]}["Ready"]


async def test_a_server_becomes_its_objects_and_a_second_look_writes_nothing(
    server_document: Build,
) -> None:
    cluster = FakeCluster()
    cluster.put(kinds.SLED_SERVER, server_document())
    async with operating(cluster) as operator:
        await operator.look((SERVER, *KEY))
        written = {key[0] for _, key in cluster.writes}
        assert written >= {
            "secrets",
            "configmaps",
            "services",
            "serviceaccounts",
            "networkpolicies",
            "poddisruptionbudgets",
            "statefulsets",
            "sledservers",
        }
        await operator.look((SERVER, *KEY))
        cluster.writes.clear()
        await operator.look((SERVER, *KEY))
    assert cluster.writes == []


async def test_a_restarted_operator_writes_nothing(server_document: Build) -> None:
    cluster = FakeCluster()
    cluster.put(kinds.SLED_SERVER, server_document())
    for _ in range(2):
        async with operating(cluster) as operator:
            await operator.look((SERVER, *KEY))
            await operator.look((SERVER, *KEY))
            last = list(cluster.writes)
            cluster.writes.clear()
    assert [write for write in last if write[1][0] != "events"] == []


async def test_drift_is_repaired_and_what_is_gone_comes_back(server_document: Build) -> None:
    cluster = FakeCluster()
    cluster.put(kinds.SLED_SERVER, server_document())
    async with operating(cluster) as operator:
        await operator.look((SERVER, *KEY))
        bent = found(cluster, kinds.STATEFUL_SET, "big")
        bent["spec"]["replicas"] = 9
        operator.world.put(cluster.put(kinds.STATEFUL_SET, bent))
        cluster.remove(("secrets", "fleet", "big-tls"))
        await operator.look((SERVER, *KEY))
    assert found(cluster, kinds.STATEFUL_SET, "big")["spec"]["replicas"] == 1
    assert found(cluster, kinds.SECRET, "big-tls")


async def test_a_spec_that_no_longer_wants_an_object_loses_it(server_document: Build) -> None:
    cluster = FakeCluster()
    cluster.put(kinds.SLED_SERVER, server_document())
    async with operating(cluster) as operator:
        await operator.look((SERVER, *KEY))
        changed = server_document(networkPolicy="None", tls={"mode": "Disabled"})
        cluster.put(kinds.SLED_SERVER, changed)
        await operator.look((SERVER, *KEY))
    assert cluster.find(kinds.NETWORK_POLICY, "fleet", "big") is None
    assert cluster.find(kinds.SECRET, "fleet", "big-tls") is None
    assert cluster.find(kinds.SECRET, "fleet", "big-ca") is None
    assert cluster.find(kinds.SECRET, "fleet", "big-tokens") is not None


def verifier_pod(name: str, node_name: str, *, ending: bool) -> dict[str, Any]:
    labels = {"app.kubernetes.io/managed-by": "sled-operator", "sled.dev/server": "big"}
    metadata = {"name": name, "namespace": "fleet", "uid": f"uid-{name}", "labels": labels}
    if ending:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return {"metadata": metadata, "spec": {"nodeName": node_name}}


async def test_only_what_was_told_to_end_on_a_node_that_is_gone_is_released(
    server_document: Build,
) -> None:
    cluster = FakeCluster()
    cluster.put(kinds.SLED_SERVER, server_document())
    cluster.put(kinds.NODE, node("here"))
    cluster.put(kinds.NODE, node("gone", "Unknown"))
    for name, place, ending in (
        ("big-0", "gone", True),
        ("big-1", "gone", False),
        ("big-2", "here", True),
        ("big-3", "removed", True),
    ):
        cluster.put(kinds.POD, verifier_pod(name, place, ending=ending))
    async with operating(cluster) as operator:
        await operator.look((SERVER, *KEY))
    assert [key[2] for verb, key in cluster.writes if verb == "evict"] == ["big-0"]
    reasons = [body["reason"] for key, body in cluster.objects.items() if key[0] == "events"]
    assert "ReplicaReleased" in reasons


async def test_a_replica_that_writes_to_a_volume_is_left_to_a_person(
    server_document: Build,
) -> None:
    cluster = FakeCluster()
    cluster.put(kinds.SLED_SERVER, server_document(cache={"type": "PersistentVolume"}))
    cluster.put(kinds.NODE, node("gone", "Unknown"))
    cluster.put(kinds.POD, verifier_pod("big-0", "gone", ending=True))
    async with operating(cluster) as operator:
        await operator.look((SERVER, *KEY))
    assert [verb for verb, _ in cluster.writes if verb == "evict"] == []


async def test_a_node_that_is_lost_wakes_the_servers_on_it(server_document: Build) -> None:
    cluster = FakeCluster()
    cluster.put(kinds.SLED_SERVER, server_document())
    cluster.put(kinds.NODE, node("here"))
    cluster.put(kinds.POD, verifier_pod("big-0", "here", ending=True))
    async with operating(cluster) as operator:
        await operator.look((SERVER, *KEY))
        woken = asyncio.Event()
        operator.world._look = lambda key: woken.set() if key == (SERVER, *KEY) else None
        cluster.put(kinds.NODE, node("here", "Unknown"))
        async with asyncio.timeout(5):
            await woken.wait()


async def test_a_secret_of_somebody_else_is_never_touched(server_document: Build) -> None:
    cluster = FakeCluster()
    own = {"metadata": {"name": "mine", "namespace": "fleet"}, "data": {}}
    cluster.put(kinds.SECRET, own)
    cluster.put(
        kinds.SLED_SERVER, server_document(auth={"mode": "DeviceTokens", "secretName": "mine"})
    )
    async with operating(cluster) as operator:
        await operator.look((SERVER, *KEY))
    condition = ready_condition(found(cluster, kinds.SLED_SERVER, "big"))
    assert (condition["status"], condition["reason"]) == ("False", "SecretMissing")
    assert "lacks tokens, token" in condition["message"]
    assert ("apply", ("secrets", "fleet", "mine")) not in cluster.writes


async def test_no_secret_is_ever_in_a_status_an_event_or_a_configuration(
    server_document: Build,
) -> None:
    cluster = FakeCluster()
    cluster.put(kinds.SLED_SERVER, server_document())
    async with operating(cluster) as operator:
        await operator.look((SERVER, *KEY))
    secret = base64.b64decode(found(cluster, kinds.SECRET, "big-tokens")["data"]["token"]).decode()
    others = [value for key, value in cluster.objects.items() if key[0] != "secrets"]
    assert secret not in repr(others)


async def test_an_invalid_resource_is_told_so_and_stops_nobody(server_document: Build) -> None:
    cluster = FakeCluster()
    bad = server_document(name="bad")
    bad["spec"]["replicas"] = "three"
    cluster.put(kinds.SLED_SERVER, bad)
    cluster.put(kinds.SLED_SERVER, server_document())
    async with operating(cluster) as operator:
        await operator.look((SERVER, "fleet", "bad"))
        await operator.look((SERVER, *KEY))
    condition = ready_condition(found(cluster, kinds.SLED_SERVER, "bad"))
    assert condition["reason"] == "InvalidSpec"
    assert "spec.replicas" in condition["message"]
    assert found(cluster, kinds.STATEFUL_SET, "big")


async def test_a_refused_object_is_reported_and_the_others_are_made(server_document: Build) -> None:
    cluster = FakeCluster()
    cluster.refuse["services"] = ClusterError(403, "exceeded quota")
    cluster.put(kinds.SLED_SERVER, server_document())
    async with operating(cluster) as operator:
        await operator.look((SERVER, *KEY))
    condition = ready_condition(found(cluster, kinds.SLED_SERVER, "big"))
    assert condition["reason"] == "ObjectRefused"
    assert "exceeded quota" in condition["message"]
    assert found(cluster, kinds.STATEFUL_SET, "big")


async def test_an_api_server_that_is_away_is_tried_again(server_document: Build) -> None:
    cluster = FakeCluster()
    cluster.refuse["services"] = ClusterError(0, "connection refused")
    cluster.put(kinds.SLED_SERVER, server_document())
    async with operating(cluster) as operator:
        with pytest.raises(Retry):
            await operator.look((SERVER, *KEY))
        cluster.refuse.clear()
        await operator.look((SERVER, *KEY))
    assert found(cluster, kinds.SERVICE, "big")


async def test_a_drafter_labels_its_nodes_after_its_objects_are_there(
    server_document: Build, drafter_document: Build
) -> None:
    cluster = FakeCluster()
    for number in range(3):
        cluster.put(kinds.NODE, node(f"n{number}"))
    cluster.put(kinds.SLED_SERVER, server_document())
    cluster.put(kinds.EDGE_DRAFTER, drafter_document())
    async with operating(cluster) as operator:
        await operator.look((DRAFTER, "fleet", "pis"))
        values = {
            found(cluster, kinds.NODE, f"n{i}")["metadata"]["labels"][NODE_LABEL] for i in range(3)
        }
        (value,) = values
        order = [key[0] for _, key in cluster.writes]
        assert order.index("daemonsets") < order.index("nodes")
        draft, device_class, revision = value.split(".")
        assert found(cluster, kinds.DAEMON_SET, f"pis-{draft}-{device_class}-{revision}")
        await operator.look((DRAFTER, "fleet", "pis"))
        cluster.writes.clear()
        await operator.look((DRAFTER, "fleet", "pis"))
    assert cluster.writes == []


async def test_a_drafter_without_its_server_waits_and_changes_nothing(
    server_document: Build, drafter_document: Build
) -> None:
    cluster = FakeCluster()
    cluster.put(kinds.NODE, node("n0"))
    cluster.put(kinds.EDGE_DRAFTER, drafter_document())
    async with operating(cluster) as operator:
        await operator.look((DRAFTER, "fleet", "pis"))
        condition = ready_condition(found(cluster, kinds.EDGE_DRAFTER, "pis"))
        assert condition["reason"] == "ServerNotFound"
        assert NODE_LABEL not in found(cluster, kinds.NODE, "n0")["metadata"]["labels"]
        cluster.put(kinds.SLED_SERVER, server_document())
        await operator.look((SERVER, *KEY))
        await operator.look((DRAFTER, "fleet", "pis"))
    assert NODE_LABEL in found(cluster, kinds.NODE, "n0")["metadata"]["labels"]


async def test_a_deleted_drafter_takes_its_labels_along(
    server_document: Build, drafter_document: Build
) -> None:
    cluster = FakeCluster()
    cluster.put(kinds.NODE, node("n0"))
    cluster.put(kinds.SLED_SERVER, server_document())
    cluster.put(kinds.EDGE_DRAFTER, drafter_document())
    async with operating(cluster) as operator:
        await operator.look((DRAFTER, "fleet", "pis"))
        cluster.remove(("edgedrafters", "fleet", "pis"))
        await operator.look((DRAFTER, "fleet", "pis"))
    assert NODE_LABEL not in found(cluster, kinds.NODE, "n0")["metadata"]["labels"]


async def test_labels_of_a_drafter_deleted_while_nobody_looked_are_found(
    server_document: Build, drafter_document: Build
) -> None:
    cluster = FakeCluster()
    stray = node("n0")
    stray["metadata"]["labels"]["drafter.sled.dev/fleet.gone"] = "a.b.c"
    cluster.put(kinds.NODE, stray)
    async with operating(cluster) as operator:
        (label,) = operator.world.stale_labels()
        await operator.look((LABEL, "", label))
    labels = found(cluster, kinds.NODE, "n0")["metadata"]["labels"]
    assert "drafter.sled.dev/fleet.gone" not in labels
    assert labels["sled.dev/device"] == "true"


async def test_a_change_moves_the_nodes_to_a_new_revision_and_the_old_one_goes(
    server_document: Build, drafter_document: Build
) -> None:
    cluster = FakeCluster()
    cluster.put(kinds.NODE, node("n0"))
    cluster.put(kinds.SLED_SERVER, server_document())
    cluster.put(kinds.EDGE_DRAFTER, drafter_document())

    def sets() -> set[str]:
        return {key[2] for key in cluster.objects if key[0] == "daemonsets"}

    async with operating(cluster) as operator:
        await operator.look((DRAFTER, "fleet", "pis"))
        before = sets()
        status = found(cluster, kinds.EDGE_DRAFTER, "pis")["status"]
        cluster.put(kinds.EDGE_DRAFTER, drafter_document(sequences=9) | {"status": status})
        await operator.look((DRAFTER, "fleet", "pis"))
        assert before < sets()
        label = found(cluster, kinds.NODE, "n0")["metadata"]["labels"][NODE_LABEL]
        draft, device_class, revision = label.split(".")
        pod = {
            "metadata": {
                "name": "p",
                "namespace": "fleet",
                "labels": {
                    "app.kubernetes.io/managed-by": "sled-operator",
                    "sled.dev/drafter": "pis",
                    "sled.dev/draft": draft,
                    "sled.dev/device-class": device_class,
                    "sled.dev/revision": revision,
                },
            },
            "spec": {"nodeName": "n0"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }
        operator.world.pods.put(cluster.put(kinds.POD, pod))
        await operator.look((DRAFTER, "fleet", "pis"))
        await operator.look((DRAFTER, "fleet", "pis"))
    assert sets().isdisjoint(before)
    status = found(cluster, kinds.EDGE_DRAFTER, "pis")["status"]
    assert status["rollout"]["state"] == "Complete"
    assert status["summary"] == "1/1"
    assert ready_condition(found(cluster, kinds.EDGE_DRAFTER, "pis"))["status"] == "True"
