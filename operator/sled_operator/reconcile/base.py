"""What both reconcilers need: access, clocks, status writing. Must not know either kind."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sled_operator import events
from sled_operator.apply import Applier, Refused
from sled_operator.cluster.base import Cluster, ClusterError, Object, Resource
from sled_operator.conditions import Observation, Reason, Type, fold
from sled_operator.plan import identity, plan
from sled_operator.resources.base import Manifest, Owner
from sled_operator.server_status import Problem
from sled_operator.settings import Settings
from sled_operator.spec.base import Metadata
from sled_operator.workqueue import Retry
from sled_operator.world import World


def utc_now() -> datetime:
    """The present, aware."""
    return datetime.now(UTC)


@dataclass(slots=True)
class Context:
    """What a reconciler works with."""

    cluster: Cluster
    world: World
    settings: Settings
    now: Callable[[], datetime] = utc_now
    monotonic: Callable[[], float] = time.monotonic
    applier: Applier = field(init=False)

    def __post_init__(self) -> None:
        self.applier = Applier(self.cluster, self.world)

    async def converge(
        self, owner: Owner, manifests: Sequence[Manifest], observed: Sequence[Object]
    ) -> list[Problem]:
        """Make the cluster hold exactly `manifests` among the owner's objects.

        Raises:
            Retry: the API server could not be reached or asked to come back.
        """
        todo = plan(manifests, observed)
        there = {identity(document): document for document in observed}
        try:
            refused = await self.applier.run(owner.metadata.namespace, todo, there)
        except ClusterError as error:
            raise Retry(str(error)) from error
        return [_problem(each) for each in refused]

    async def report(
        self,
        resource: Resource,
        owner: Owner,
        document: Object,
        observations: Sequence[Observation],
        fields: Mapping[str, Any],
    ) -> None:
        """Write the status if it says something new, and an Event when Ready changes.

        A field that is None is removed.
        """
        before = document.get("status", {})
        moment = self.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        generation = document["metadata"].get("generation", 0)
        conditions = fold(before.get("conditions", ()), observations, generation, moment)
        status = {"observedGeneration": generation, "conditions": conditions, **fields}
        news = {
            name: value
            for name, value in status.items()
            if before.get(name) != value and not (value is None and name not in before)
        }
        if not news:
            return
        try:
            await self.cluster.merge_patch(
                resource,
                owner.metadata.namespace,
                owner.metadata.name,
                {"status": _with_nulls(before, news)},
                "status",
            )
        except ClusterError as error:
            if error.status != 404:
                raise Retry(f"the status was not taken: {error}") from error
            return
        await self._tell(owner, before, observations)

    async def _tell(
        self, owner: Owner, before: Mapping[str, Any], observations: Sequence[Observation]
    ) -> None:
        old = {item.get("type"): item for item in before.get("conditions", ())}
        for seen in observations:
            if seen.type not in (Type.READY, Type.DEGRADED):
                continue
            known = old.get(str(seen.type), {})
            was = known.get("status") == "True"
            if was == seen.status and (not seen.status or known.get("reason") == seen.reason):
                continue
            if seen.type is Type.READY and not seen.status and not known:
                continue
            warning = (seen.type is Type.READY) != seen.status
            reason = str(seen.type) if seen.status else f"Not{seen.type}"
            await events.post(self.cluster, owner, reason, seen.message, warning)


def identity_of(document: Object) -> Metadata:
    """The metadata of a document that does not parse: enough to report on it, unchecked."""
    meta = document["metadata"]
    return Metadata.model_construct(
        name=meta["name"],
        namespace=meta["namespace"],
        uid=meta.get("uid", ""),
        generation=meta.get("generation", 0),
    )


def invalid(message: str) -> list[Observation]:
    """Conditions of a resource whose spec cannot be understood."""
    return [
        Observation(Type.READY, False, Reason.INVALID_SPEC, message),
        Observation(Type.DEGRADED, True, Reason.INVALID_SPEC, message),
        Observation(Type.PROGRESSING, False, Reason.INVALID_SPEC, message),
    ]


def _problem(refused: Refused) -> Problem:
    return Problem(Reason.OBJECT_REFUSED, f"{refused.kind} {refused.name}: {refused.message}")


def _with_nulls(before: Mapping[str, Any], news: Mapping[str, Any]) -> dict[str, Any]:
    """A merge patch that makes nested mappings equal, not just larger."""
    patch: dict[str, Any] = {}
    for name, value in news.items():
        old = before.get(name)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            gone = {key: None for key in old if key not in value}
            patch[name] = {**gone, **value}
        else:
            patch[name] = value
    return patch
