"""The running operator: wires watches, queue, reconcilers and telemetry. Must not hold any
policy."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from sled_operator import handlers
from sled_operator.activator import TcpActivator
from sled_operator.autoscaler.stats import GrpcStats, StatsReader
from sled_operator.capabilities import Capabilities
from sled_operator.cluster import kinds
from sled_operator.cluster.base import Cluster, Object
from sled_operator.lease import Lease
from sled_operator.metrics import Metrics
from sled_operator.reconcile.base import Context
from sled_operator.reconcile.drafter import DrafterReconciler
from sled_operator.reconcile.server import NoActivator, ServerReconciler
from sled_operator.settings import Settings
from sled_operator.telemetry import Collector
from sled_operator.workqueue import WorkQueue
from sled_operator.world import DRAFTER, LABEL, SERVER, WorkKey, World

log = logging.getLogger(__name__)
PAGE = 500


@dataclass(slots=True)
class Operator:
    """Everything that works while this replica leads."""

    cluster: Cluster
    settings: Settings
    metrics: Metrics
    stats: StatsReader = field(default_factory=GrpcStats)
    queue: WorkQueue[WorkKey] = field(init=False)
    world: World = field(init=False)
    servers: ServerReconciler = field(init=False)
    drafters: DrafterReconciler = field(init=False)

    def __post_init__(self) -> None:
        settings = self.settings
        self.queue = WorkQueue(self.look, self.metrics)
        self.world = World(
            self.cluster, settings.watch_namespace, self.queue.add, self.queue.add_soon
        )
        context = Context(self.cluster, self.world, settings)
        self.servers = ServerReconciler(
            context,
            Capabilities(self.cluster, kinds.OPTIONAL, settings.watch_namespace),
            TcpActivator(self.cluster, settings.pod_ip, lambda key: self.queue.add((SERVER, *key)))
            if settings.pod_ip
            else NoActivator(),
        )
        self.drafters = DrafterReconciler(context)

    async def look(self, key: WorkKey) -> float | None:
        """Reconcile whatever a key names."""
        kind, namespace, name = key
        if kind == SERVER:
            return await self.servers.reconcile((namespace, name))
        if kind == DRAFTER:
            return await self.drafters.reconcile((namespace, name))
        await self.drafters.remove_label(name)
        return None

    async def prime(self) -> None:
        """Learn all resources before the first decision, so that nothing looks orphaned."""
        for resource in (kinds.SLED_SERVER, kinds.EDGE_DRAFTER):
            token = ""
            while True:
                page = await self.cluster.page(
                    resource, self.settings.watch_namespace, "", PAGE, token
                )
                for document in page.items:
                    self._prime(resource.kind, document)
                token = page.next
                if not token:
                    break

    def _prime(self, kind: str, document: Object) -> None:
        document["apiVersion"], document["kind"] = kinds.SLED_SERVER.api_version, kind
        self.world.learn(document)
        meta = document["metadata"]
        self.queue.add((kind, meta["namespace"], meta["name"]))

    async def run(self, tasks: asyncio.TaskGroup) -> None:
        """Start all watches, wait until each has listed, then start working."""
        for informer in self.world.informers:
            tasks.create_task(informer.run(), name=f"watch {informer.resource.plural}")
        await self.prime()
        for informer in self.world.informers:
            await informer.synced.wait()
        for label in self.world.stale_labels():
            self.queue.add((LABEL, "", label))
        for number in range(self.settings.workers):
            tasks.create_task(self.queue.worker(), name=f"worker {number}")
        collector = Collector(
            self.world,
            self.stats,
            self.servers.access,
            self.queue.add,
            float(self.settings.stats_seconds),
        )
        tasks.create_task(collector.run(), name="telemetry")
        log.info("working", extra={"nodes": len(self.world.nodes)})

    async def close(self) -> None:
        """Drop timers and close doors; this operator works no more."""
        self.queue.close()
        await self.servers.activator.close()

    def refresh_metrics(self) -> None:
        """Bring the gauges up to date."""
        for informer in self.world.informers:
            self.metrics.objects.labels(informer.resource.kind).set(len(informer))


async def lead(operator: Operator, lease: Lease, stop: asyncio.Event) -> None:
    """Work while the lease is held, until `stop`; then end every task.

    Raises:
        LeaseLost: (in a group, as all failures) this replica leads no longer.
    """
    operator.metrics.leading.set(1)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(lease.hold(), name="lease")
            tasks.create_task(_end(stop), name="stop")
            watching = handlers.watch(
                operator.queue.add, operator.queue.add_soon, operator.settings
            )
            tasks.create_task(watching, name="kopf")
            await operator.run(tasks)
    finally:
        operator.metrics.leading.set(0)
        await operator.close()


async def _end(stop: asyncio.Event) -> None:
    await stop.wait()
    raise Stopped


class Stopped(Exception):
    """Asked to stop: ends the task group."""
