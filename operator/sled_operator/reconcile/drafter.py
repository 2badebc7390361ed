"""EdgeDrafter: from the resource to node labels, objects and status. Thin: it reads, asks the pure
modules, writes what they say, in an order that is safe to be killed in: objects, then the status
with the rollout's state, then labels; and no object is deleted while a node's label names it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

from sled_operator import ahead, drafter_plan, drafter_status, measure, rollout
from sled_operator.assignment.assign import Assigner
from sled_operator.cluster import kinds
from sled_operator.cluster.base import ClusterError, Object
from sled_operator.conditions import Observation, Reason, Type
from sled_operator.drafter_plan import Fleet, Placement
from sled_operator.informer import Key
from sled_operator.names import REVISION, ahead_label, node_label
from sled_operator.reconcile.base import Context, identity_of, invalid
from sled_operator.resources.base import Owner, drafter_owner
from sled_operator.revision import Snapshot, UnreadableRevision, endpoint_of, restore
from sled_operator.server_status import Problem
from sled_operator.spec import EdgeDrafter, InvalidResource, parse
from sled_operator.workqueue import Retry
from sled_operator.world import DRAFTER

log = logging.getLogger(__name__)
PARALLEL_LABELS = 8
"""Nodes labelled at once for one EdgeDrafter, so that the others and their objects get their
turn."""


@dataclass(frozen=True, slots=True)
class _Baseline:
    """The fleet's totals when a rollout began, to tell what the new revision did."""

    target: str
    totals: dict[measure.Counted, measure.Counts]


@dataclass(slots=True)
class DrafterReconciler:
    """Reconciles EdgeDrafters and cleans up the node labels of those that are gone."""

    context: Context
    _baselines: dict[Key, _Baseline] = field(default_factory=dict)

    async def reconcile(self, key: Key) -> float | None:
        """One look; returns when to look again.

        Raises:
            Retry: the API server could not be reached.
        """
        try:
            return await self._reconcile(key)
        except ClusterError as error:
            raise Retry(str(error)) from error

    async def remove_label(self, label: str) -> None:
        """Take a label off all nodes, because its EdgeDrafter is gone.

        Raises:
            Retry: the API server could not be reached.
        """
        if label not in self.context.world.stale_labels():
            return
        nodes = [name for (_, name), n in self.context.world.nodes.items() if label in n.labels]
        await self._label(label, dict.fromkeys(nodes))

    async def _reconcile(self, key: Key) -> float | None:
        context = self.context
        document = await context.cluster.get(kinds.EDGE_DRAFTER, *key)
        if document is None or "deletionTimestamp" in document["metadata"]:
            context.world.forget(DRAFTER, key)
            self._baselines.pop(key, None)
            for label in (node_label(*key), ahead_label(*key)):
                await self.remove_label(label)
            return None
        document["kind"] = DRAFTER
        context.world.learn(document)
        try:
            drafter = parse(document)
        except InvalidResource as error:
            metadata = identity_of(document)
            owner = Owner(DRAFTER, "drafter", "", metadata)
            await context.report(kinds.EDGE_DRAFTER, owner, document, invalid(str(error)), {})
            return context.settings.resync_seconds
        if not isinstance(drafter, EdgeDrafter):
            raise TypeError("an EdgeDrafter was asked for")
        return await self._converge(key, drafter, document)

    async def _converge(self, key: Key, drafter: EdgeDrafter, document: Object) -> float:
        context, world = self.context, self.context.world
        name = drafter.spec.server.name
        server = world.servers.get((key[0], name)) if name else None
        endpoint = endpoint_of(drafter, server)
        if endpoint is None:
            return await self._no_server(drafter, document)
        target = Snapshot(drafter.spec, endpoint, context.settings.edge_images)
        snapshots = self._snapshots(drafter, target)
        before = drafter_status.progress_from(
            document.get("status", {}).get("rollout"), target.name
        )
        if before.stable not in snapshots:
            before = rollout.first(target.name)
        nodes = drafter_plan.fleet(drafter, world.nodes_of(key), world.pods_of(DRAFTER, key))
        placement = self._place(key, drafter, target, snapshots, nodes, before)
        placement = ahead.hold_back(nodes, placement, snapshots)
        first = {*nodes.ahead.values(), *placement.ahead.values()}
        in_use = {*nodes.given.values(), *placement.wanted.values()}
        used = {given.revision for given in in_use | first} | {
            target.name,
            placement.progress.stable,
        }
        needed = {name: each for name, each in snapshots.items() if name in used}
        owner = drafter_owner(drafter)
        owned = world.owned_by(drafter.metadata.uid)
        manifests = drafter_plan.objects(drafter, in_use, needed, first)
        problems = await context.converge(owner, manifests, owned)
        await self._report(owner, drafter, document, nodes, placement, problems)
        for label, given in (
            (node_label(*key), placement.values),
            (ahead_label(*key), placement.ahead_values),
        ):
            values = {node: drafter_plan.label_value(each) for node, each in given.items()}
            await self._label(label, values)
        again = float(context.settings.resync_seconds)
        if placement.look_again_seconds is not None:
            again = min(again, max(1.0, placement.look_again_seconds))
        if placement.progress.state in (rollout.State.MOVING, rollout.State.SOAKING):
            again = min(again, float(context.settings.stats_seconds))
        return again

    def _snapshots(self, drafter: EdgeDrafter, target: Snapshot) -> dict[str, Snapshot]:
        """The target and every stored revision that can be read, by name."""
        found = {}
        for document in self.context.world.owned_by(drafter.metadata.uid):
            if document["kind"] != "ControllerRevision":
                continue
            name = document["metadata"]["labels"].get(REVISION, "")
            try:
                snapshot = restore(document.get("data") or {}, drafter.spec)
            except UnreadableRevision as error:
                log.warning("%s", error, extra={"revision": name})
                continue
            if snapshot.name == name:
                found[name] = snapshot
        found[target.name] = target
        return found

    def _place(
        self,
        key: Key,
        drafter: EdgeDrafter,
        target: Snapshot,
        snapshots: dict[str, Snapshot],
        nodes: Fleet,
        before: rollout.Progress,
    ) -> Placement:
        ledger = self._ledger(key, drafter)
        assigners = {
            name: Assigner(snapshot.spec, ledger.measured()) for name, snapshot in snapshots.items()
        }
        return drafter_plan.place(
            drafter,
            target,
            snapshots[before.stable],
            nodes,
            assigners,
            before,
            self._quality(key, target, snapshots[before.stable], ledger),
            self.context.now(),
        )

    def _ledger(self, key: Key, drafter: EdgeDrafter) -> measure.Ledger:
        server = drafter.spec.server.name
        telemetry = self.context.world.telemetry.get((key[0], server)) if server else None
        return telemetry.ledger if telemetry else measure.Ledger()

    def _quality(
        self, key: Key, target: Snapshot, stable: Snapshot, ledger: measure.Ledger
    ) -> rollout.Quality:
        if target.name == stable.name:
            self._baselines.pop(key, None)
            return rollout.Quality()
        baseline = self._baselines.get(key)
        if baseline is None or baseline.target != target.name:
            baseline = self._baselines[key] = _Baseline(target.name, dict(ledger.totals))
        return measure.quality(baseline.totals, ledger.totals, target.name, stable.name)

    async def _label(self, label: str, values: dict[str, str | None]) -> None:
        """Set or remove a label on nodes; a node that has gone meanwhile is none."""

        free = asyncio.Semaphore(PARALLEL_LABELS)

        async def one(name: str, value: str | None) -> None:
            patch = {"metadata": {"labels": {label: value}}}
            try:
                async with free:
                    result = await self.context.cluster.merge_patch(kinds.NODE, "", name, patch)
            except ClusterError as error:
                if error.status != 404:
                    raise
                return
            self.context.world.nodes.put(result)

        results = await asyncio.gather(
            *(one(name, value) for name, value in values.items()), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _no_server(self, drafter: EdgeDrafter, document: Object) -> float:
        """What runs keeps running; nothing new is made."""
        message = f"there is no valid SLEDServer {drafter.spec.server.name} in this namespace"
        observations = [
            Observation(Type.READY, False, Reason.SERVER_NOT_FOUND, message),
            Observation(Type.DEGRADED, True, Reason.SERVER_NOT_FOUND, message),
            Observation(Type.PROGRESSING, False, Reason.SERVER_NOT_FOUND, message),
        ]
        await self.context.report(
            kinds.EDGE_DRAFTER, drafter_owner(drafter), document, observations, {}
        )
        return float(self.context.settings.resync_seconds)

    async def _report(
        self,
        owner: Owner,
        drafter: EdgeDrafter,
        document: Object,
        nodes: Fleet,
        placement: Placement,
        problems: list[Problem],
    ) -> None:
        numbers = drafter_status.counts(nodes, placement)
        if (fetching := drafter_status.fetch_problem(nodes.fetches.values())) is not None:
            problems = [*problems, fetching]
        fields: dict[str, Any] = {
            "nodes": numbers,
            "summary": f"{numbers['ready']}/{numbers['selected']}",
            "assignments": drafter_status.assignments(nodes, placement.wanted),
            "unassignedNodes": drafter_status.unassigned(placement.refused),
            "models": drafter_status.models(nodes),
            "nodesWithoutModel": drafter_status.without_model(nodes),
            "rollout": drafter_status.rollout_status(drafter.spec.rollout, placement.progress),
        }
        observations = drafter_status.observe(numbers, placement.progress, problems)
        await self.context.report(kinds.EDGE_DRAFTER, owner, document, observations, fields)
