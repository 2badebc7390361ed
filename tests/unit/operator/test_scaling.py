"""Scaling through the whole operator, over fakes: stats in, replicas out, a door while it
sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sled_operator.apply import Applier
from sled_operator.autoscaler.stats import FakeStats
from sled_operator.capabilities import Capabilities
from sled_operator.cluster import kinds
from sled_operator.cluster.base import ClusterError, Page
from sled_operator.cluster.fake import FakeCluster
from sled_operator.metrics import Metrics
from sled_operator.plan import plan
from sled_operator.resources.base import server_owner
from sled_operator.resources.serviceaccount import service_account
from sled_operator.runtime import Operator
from sled_operator.settings import Settings
from sled_operator.spec import SLEDServer
from sled_operator.telemetry import Collector
from sled_operator.world import SERVER
from sled_protocol.v1 import verifier_pb2

Build = Callable[..., dict[str, Any]]
KEY = ("fleet", "big")


def pod(name: str, address: str) -> dict[str, Any]:
    labels = {"app.kubernetes.io/managed-by": "sled-operator", "sled.dev/server": "big"}
    return {
        "metadata": {"name": name, "namespace": "fleet", "labels": labels},
        "spec": {"nodeName": "n"},
        "status": {"podIP": address, "conditions": [{"type": "Ready", "status": "True"}]},
    }


def stats(queue: int) -> verifier_pb2.Stats:
    measured = verifier_pb2.DraftModelStats(
        draft_model="small", device_class="pi5", rounds_total=5, draft_tokens_total=20
    )
    return verifier_pb2.Stats(
        load=verifier_pb2.Load(queue_depth=queue), connected_devices=1, draft_models=[measured]
    )


@asynccontextmanager
async def scaled(
    cluster: FakeCluster, answers: dict[str, verifier_pb2.Stats]
) -> AsyncIterator[tuple[Operator, Collector]]:
    reader = FakeStats(answers)
    operator = Operator(cluster, Settings(pod_ip="192.0.2.9"), Metrics(), reader)
    await operator.prime()
    tasks = [asyncio.create_task(each.run()) for each in operator.world.informers]
    async with asyncio.timeout(10):
        for informer in operator.world.informers:
            await informer.synced.wait()
    access = operator.servers.access
    collector = Collector(operator.world, reader, access, operator.queue.add, 1.0)
    try:
        yield operator, collector
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await operator.close()


def replicas(cluster: FakeCluster) -> int:
    document = cluster.find(kinds.STATEFUL_SET, "fleet", "big")
    assert document is not None
    return int(document["spec"]["replicas"])


async def test_a_long_queue_adds_replicas_and_says_why(server_document: Build) -> None:
    cluster = FakeCluster()
    scaling = {"mode": "Builtin", "maxReplicas": 5, "targetQueueDepth": 10}
    cluster.put(kinds.SLED_SERVER, server_document(autoscaling=scaling))
    cluster.put(kinds.POD, pod("big-0", "10.0.0.1"))
    async with scaled(cluster, {"10.0.0.1:7000": stats(35)}) as (operator, collector):
        await operator.look((SERVER, *KEY))
        assert replicas(cluster) == 1
        await collector.collect()
        await operator.look((SERVER, *KEY))
        assert replicas(cluster) == 4
        telemetry = operator.world.telemetry[KEY]
        assert telemetry.ledger.measured()[("small", "pi5")].draft_tokens == 20
    document = cluster.find(kinds.SLED_SERVER, "fleet", "big")
    assert document is not None
    assert document["spec"].get("replicas") is None
    assert document["status"]["autoscaling"]["reason"] == "QueueLong"
    events = [body for key, body in cluster.objects.items() if key[0] == "events"]
    assert any("35 drafts wait" in event["message"] for event in events)


async def test_a_sleeping_server_opens_a_door_and_wakes(server_document: Build) -> None:
    cluster = FakeCluster()
    scaling = {"mode": "Builtin", "minReplicas": 0}
    cluster.put(kinds.SLED_SERVER, server_document(replicas=0, autoscaling=scaling))
    async with scaled(cluster, {}) as (operator, _):
        await operator.look((SERVER, *KEY))
        assert replicas(cluster) == 0
        door = cluster.find(kinds.ENDPOINT_SLICE, "fleet", "big-activator")
        assert door is not None
        assert door["endpoints"][0]["addresses"] == ["192.0.2.9"]
        await operator.look((SERVER, *KEY))
        assert replicas(cluster) == 0
        reader, writer = await asyncio.open_connection("127.0.0.1", door["ports"][0]["port"])
        assert await reader.read() == b""
        writer.close()
        await operator.look((SERVER, *KEY))
        assert replicas(cluster) == 1
        operator.world.pods.put(cluster.put(kinds.POD, pod("big-0", "10.0.0.1")))
        await operator.look((SERVER, *KEY))
        assert cluster.find(kinds.ENDPOINT_SLICE, "fleet", "big-activator") is None


async def test_a_door_that_cannot_be_opened_is_a_problem_and_stops_nothing(
    server_document: Build,
) -> None:
    cluster = FakeCluster()
    cluster.refuse["endpointslices"] = ClusterError(403, "forbidden")
    scaling = {"mode": "Builtin", "minReplicas": 0}
    cluster.put(kinds.SLED_SERVER, server_document(replicas=0, autoscaling=scaling))
    async with scaled(cluster, {}) as (operator, _):
        await operator.look((SERVER, *KEY))
    document = cluster.find(kinds.SLED_SERVER, "fleet", "big")
    assert document is not None
    assert "no device can wake the server" in document["status"]["conditions"][0]["message"]
    assert replicas(cluster) == 0


async def test_a_door_left_by_a_killed_operator_is_taken_away(server_document: Build) -> None:
    cluster = FakeCluster()
    left = {"metadata": {"name": "big-activator", "namespace": "fleet"}}
    cluster.put(kinds.ENDPOINT_SLICE, left)
    cluster.put(kinds.SLED_SERVER, server_document())
    async with scaled(cluster, {}) as (operator, _):
        await operator.look((SERVER, *KEY))
    assert cluster.find(kinds.ENDPOINT_SLICE, "fleet", "big-activator") is None


@pytest.mark.parametrize("mode", ["HPA", "KEDA"])
async def test_another_scaler_is_left_alone(server_document: Build, mode: str) -> None:
    cluster = FakeCluster()
    cluster.put(kinds.SLED_SERVER, server_document(autoscaling={"mode": mode}))
    async with scaled(cluster, {}) as (operator, _):
        await operator.look((SERVER, *KEY))
        found = cluster.find(kinds.STATEFUL_SET, "fleet", "big")
        assert found is not None
        fields = {"f:spec": {"f:replicas": {}}}
        found["spec"]["replicas"] = 3
        found["metadata"]["managedFields"] = [{"manager": "somebody", "fieldsV1": fields}]
        operator.world.put(cluster.put(kinds.STATEFUL_SET, found))
        await operator.look((SERVER, *KEY))
        cluster.writes.clear()
        await operator.look((SERVER, *KEY))
        hpa = cluster.find(kinds.AUTOSCALER, "fleet", "big")
    assert (hpa is not None) == (mode == "HPA")
    after = cluster.find(kinds.STATEFUL_SET, "fleet", "big")
    assert [write for write in cluster.writes if write[1][0] == "statefulsets"] == []
    assert after is not None
    assert "replicas" not in after["_applied"]["spec"]


async def test_a_value_that_the_server_normalises_is_applied_once(
    server: Callable[..., SLEDServer],
) -> None:
    cluster = FakeCluster()

    class Forget:
        def put(self, document: Any) -> None:
            """Nobody watches here."""

    applier = Applier(cluster, Forget())
    manifest = service_account(server_owner(server()))
    for _ in range(3):
        document = cluster.find(kinds.SERVICE_ACCOUNT, "fleet", "big")
        observed = []
        if document is not None:
            document["automountServiceAccountToken"] = "false"
            observed = [document]
        keyed = {(d["apiVersion"], d["kind"], d["metadata"]["name"]): d for d in observed}
        await applier.run("fleet", plan([manifest], observed), keyed)
    assert len(cluster.writes) == 1


async def test_optional_kinds_are_asked_for_now_and_then() -> None:
    class Some(FakeCluster):
        asked = 0

        async def page(self, *arguments: Any) -> Page:
            self.asked += 1
            if arguments[0].kind in ("Certificate", "GRPCRoute"):
                raise ClusterError(404 if arguments[0].kind == "Certificate" else 403, "no")
            return Page([], "1", "")

    cluster = Some()
    capabilities = Capabilities(cluster, kinds.OPTIONAL)
    assert await capabilities.refresh(0.0)
    assert {each.kind for each in capabilities.present} == {
        "ServiceMonitor",
        "BackendTLSPolicy",
        "ResourceClaimTemplate",
    }
    assert not await capabilities.refresh(100.0)
    assert cluster.asked == len(kinds.OPTIONAL)
    assert not await capabilities.refresh(1000.0)
    assert cluster.asked == 2 * len(kinds.OPTIONAL)
