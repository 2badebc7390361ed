"""SLEDServer: from the resource to its objects and its status. Thin: it reads, asks the pure
modules, writes what they say."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, Protocol

from sled_operator import events, lost_pods, server_objects, server_status
from sled_operator.autoscaler.decision import Decision, History, decide
from sled_operator.autoscaler.sample import sample
from sled_operator.autoscaler.stats import Access
from sled_operator.capabilities import Capabilities
from sled_operator.cluster import kinds
from sled_operator.cluster.base import ClusterError, Object
from sled_operator.conditions import Reason
from sled_operator.drafter_status import fetch_problem, timestamp
from sled_operator.informer import Key
from sled_operator.reconcile import secrets
from sled_operator.reconcile.base import Context, identity_of, invalid
from sled_operator.resources.base import Owner, server_owner
from sled_operator.resources.service import server_address
from sled_operator.spec import InvalidResource, SLEDServer, parse
from sled_operator.workqueue import Retry
from sled_operator.world import SERVER

log = logging.getLogger(__name__)
MISSING_SECONDS = 10.0
"""How soon to look again for a Secret that somebody else makes."""


class Activator(Protocol):
    """Listens for devices while a server has no replica."""

    async def expect(self, server: SLEDServer) -> bool:
        """Make devices able to knock; True when one has."""
        ...

    async def dismiss(self, key: Key) -> None:
        """Stop listening."""
        ...

    async def close(self) -> None:
        """Stop listening for all."""
        ...


class NoActivator:
    """For an operator that devices cannot reach: nobody ever knocks."""

    async def expect(self, server: SLEDServer) -> bool:
        """Never."""
        return False

    async def dismiss(self, key: Key) -> None:
        """Nothing to stop."""

    async def close(self) -> None:
        """Nothing to stop."""


@dataclass(slots=True)
class ServerReconciler:
    """Reconciles SLEDServers; keeps the autoscaler's history between looks."""

    context: Context
    capabilities: Capabilities
    activator: Activator = field(default_factory=NoActivator)
    access: dict[Key, Access] = field(default_factory=dict)
    """How to reach each server's replicas, for the telemetry."""
    _history: dict[Key, History] = field(default_factory=dict)

    async def reconcile(self, key: Key) -> float | None:
        """One look; returns when to look again.

        Raises:
            Retry: the API server could not be reached.
        """
        try:
            return await self._reconcile(key)
        except ClusterError as error:
            raise Retry(str(error)) from error

    async def _reconcile(self, key: Key) -> float | None:
        context = self.context
        document = await context.cluster.get(kinds.SLED_SERVER, *key)
        if document is None or "deletionTimestamp" in document["metadata"]:
            await self._forget(key)
            return None
        document["kind"] = SERVER
        context.world.learn(document)
        try:
            server = parse(document)
        except InvalidResource as error:
            metadata = identity_of(document)
            owner = Owner(SERVER, "verifier", "", metadata)
            await context.report(kinds.SLED_SERVER, owner, document, invalid(str(error)), {})
            return context.settings.resync_seconds
        if not isinstance(server, SLEDServer):
            raise TypeError("a SLEDServer was asked for")
        return await self._converge(key, server, document)

    async def _converge(self, key: Key, server: SLEDServer, document: Object) -> float:
        context = self.context
        await self.capabilities.refresh(context.monotonic())
        kept = await secrets.keep(context.cluster, server, context.now())
        self.access[key] = kept.access
        owned = context.world.owned_by(server.metadata.uid)
        statefulset = next((o for o in owned if o["kind"] == "StatefulSet"), None)
        asleep: list[server_status.Problem] = []
        replicas, decision = await self._replicas(key, server, statefulset, asleep)
        wanted = server_objects.wanted(
            server,
            context.settings.verifier_image_of(server.spec.engine.kind),
            replicas,
            self.capabilities.present,
            kept.access.ca,
        )
        owner = server_owner(server)
        observed = [*owned, *kept.observed, *await self._optional(server)]
        await self._release(key, server)
        refused = await context.converge(owner, [*kept.manifests, *wanted.manifests], observed)
        problems = [*kept.problems, *wanted.problems, *asleep, *refused]
        pods = (pod for pod in context.world.pods_of(SERVER, key) if not pod.terminating)
        if (fetching := fetch_problem(pods)) is not None:
            problems.append(fetching)
        await self._report(owner, server, document, replicas, decision, problems)
        return self._look_again(server, kept.problems, kept.renew_seconds)

    async def _release(self, key: Key, server: SLEDServer) -> None:
        """Let go of pods whose node is gone, so that their replacements can start elsewhere."""
        if not lost_pods.may_be_replaced(server):
            return
        world, cluster = self.context.world, self.context.cluster
        for pod in lost_pods.lost(world.pods_of(SERVER, key), world.node_answers):
            await cluster.evict_now(pod.namespace, pod.name, pod.uid)
            text = f"node {pod.node} does not answer: {pod.name} is started elsewhere"
            log.warning(text, extra={"server": "/".join(key), "node": pod.node})
            await events.post(cluster, server_owner(server), "ReplicaReleased", text, True)

    async def _optional(self, server: SLEDServer) -> list[Object]:
        found = []
        for resource, name in server_objects.optional_names(server):
            if resource not in self.capabilities.present:
                continue
            document = await self.context.cluster.get(resource, server.metadata.namespace, name)
            owners = (document or {}).get("metadata", {}).get("ownerReferences", ())
            if document and any(owner.get("uid") == server.metadata.uid for owner in owners):
                found.append(document)
        return found

    async def _replicas(
        self,
        key: Key,
        server: SLEDServer,
        statefulset: Object | None,
        asleep: list[server_status.Problem],
    ) -> tuple[int | None, Decision | None]:
        scaling = server.spec.autoscaling
        if scaling.mode == "None":
            await self.activator.dismiss(key)
            return server.spec.replicas, None
        if scaling.mode != "Builtin":
            await self.activator.dismiss(key)
            least = scaling.min_replicas
            return server_objects.replicas_for_other_scaler(statefulset, least), None
        start = min(max(server.spec.replicas, scaling.min_replicas), scaling.max_replicas)
        current = start if statefulset is None else statefulset["spec"].get("replicas", 1)
        knocked = False
        if current == 0:
            try:
                knocked = await self.activator.expect(server)
            except ClusterError as error:
                text = f"no device can wake the server: {error}"
                asleep.append(server_status.Problem(Reason.OBJECT_REFUSED, text))
        elif self._serving(key):
            await self.activator.dismiss(key)
        now = self.context.monotonic()
        telemetry = self.context.world.telemetry.get(key)
        seen = sample(telemetry.answers if telemetry else [], knocked)
        history = self._history.get(key, History(now))
        decision = decide(scaling, server.spec.engine.slots, current, seen, history, now)
        self._history[key] = decision.history
        if decision.replicas != current:
            reason = f"Scaled{decision.reason}"
            await events.post(
                self.context.cluster, server_owner(server), reason, decision.message, False
            )
        return decision.replicas, decision

    def _serving(self, key: Key) -> bool:
        return any(pod.ready for pod in self.context.world.pods_of(SERVER, key))

    async def _report(
        self,
        owner: Owner,
        server: SLEDServer,
        document: Object,
        replicas: int | None,
        decision: Decision | None,
        problems: list[server_status.Problem],
    ) -> None:
        owned = self.context.world.owned_by(server.metadata.uid)
        statefulset = next((o for o in owned if o["kind"] == "StatefulSet"), None)
        if replicas is None and statefulset is not None:
            replicas = statefulset["spec"].get("replicas", 1)
        counts = server_status.replicas_of(statefulset, replicas or 0)
        fields: dict[str, Any] = {
            "replicas": counts.existing,
            "readyReplicas": counts.ready,
            "selector": ",".join(f"{k}={v}" for k, v in sorted(owner.selector.items())),
            "address": server_address(server),
            "autoscaling": self._scaling_status(
                (server.metadata.namespace, server.metadata.name), document, decision
            ),
        }
        observations = server_status.observe(counts, problems)
        await self.context.report(kinds.SLED_SERVER, owner, document, observations, fields)

    def _scaling_status(self, key: Key, document: Object, decision: Decision | None) -> Any:
        """Written anew only when replicas or the reason change: numbers that waver are metrics."""
        if decision is None:
            return None
        before = document.get("status", {}).get("autoscaling") or {}
        same = before.get("desiredReplicas") == decision.replicas
        if same and before.get("reason") == str(decision.reason):
            return before
        moment = timestamp(self.context.now().timestamp())
        telemetry = self.context.world.telemetry.get(key)
        seen = sample(telemetry.answers if telemetry else [])
        return {
            "desiredReplicas": decision.replicas,
            "reason": str(decision.reason),
            "message": decision.message,
            "queueDepth": seen.queue_depth,
            "lastScaleTime": before.get("lastScaleTime", moment) if same else moment,
        }

    def _look_again(
        self, server: SLEDServer, problems: list[server_status.Problem], renew: float | None
    ) -> float:
        again = float(self.context.settings.resync_seconds)
        if problems:
            again = min(again, MISSING_SECONDS)
        if renew is not None:
            again = min(again, renew)
        if server.spec.autoscaling.mode == "Builtin":
            again = min(again, float(self.context.settings.stats_seconds))
        return again

    async def _forget(self, key: Key) -> None:
        self.context.world.forget(SERVER, key)
        self._history.pop(key, None)
        self.access.pop(key, None)
        await self.activator.dismiss(key)
