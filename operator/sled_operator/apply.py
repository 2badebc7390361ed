"""Carries out a plan by server-side apply. Must not decide what is wanted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from sled_operator.cluster.base import ClusterError, Object, Writer
from sled_operator.cluster.kinds import BY_KIND
from sled_operator.names import APPLIED
from sled_operator.plan import Identity, Plan, identity
from sled_operator.resources.base import Manifest

log = logging.getLogger(__name__)
MAX_MEMORY = 10_000


class Sink(Protocol):
    """Takes in what a write returned."""

    def put(self, document: Object) -> None:
        """The newest state of an object."""
        ...


@dataclass(frozen=True, slots=True)
class Refused:
    """A write that the API server would not take."""

    kind: str
    name: str
    message: str


@dataclass(slots=True)
class Applier:
    """Applies plans, and remembers what the API server made of a manifest.

    The API server may normalise a field (`1000m` becomes `1`); the plan then sees drift that is
    none. What was applied, and the state that came of it, is remembered: as long as both are the
    same, it is not applied again.
    """

    writer: Writer
    sink: Sink
    _settled: dict[tuple[str, Identity], tuple[str, str]] = field(default_factory=dict)

    async def run(
        self, namespace: str, todo: Plan, observed: Mapping[Identity, Object]
    ) -> list[Refused]:
        """Write; returns what was refused for good (the rest raises ClusterError)."""
        refused: list[Refused] = []
        pending = [
            (manifest, reason)
            for manifest, reason in todo.apply
            if not self._is_settled(namespace, manifest, observed.get(identity(manifest)))
        ]
        results = await asyncio.gather(*(self._apply(namespace, m, r) for m, r in pending))
        refused.extend(result for result in results if result is not None)
        for document in todo.delete:
            await self._delete(namespace, document)
        return refused

    def _is_settled(self, namespace: str, manifest: Manifest, observed: Object | None) -> bool:
        if observed is None:
            return False
        known = self._settled.get((namespace, identity(manifest)))
        return known == (manifest["metadata"]["annotations"][APPLIED], _state(observed))

    async def _apply(self, namespace: str, manifest: Manifest, reason: str) -> Refused | None:
        resource = BY_KIND[manifest["apiVersion"], manifest["kind"]]
        name = manifest["metadata"]["name"]
        try:
            result = await self.writer.apply(resource, manifest)
        except ClusterError as error:
            if error.status in (400, 403, 404, 409, 422):
                return Refused(manifest["kind"], name, str(error))
            raise
        fields = {"kind": manifest["kind"], "namespace": namespace, "object": name}
        log.info("applied, because %s", reason, extra=fields)
        if len(self._settled) >= MAX_MEMORY:
            self._settled.clear()
        applied = manifest["metadata"]["annotations"][APPLIED]
        self._settled[namespace, identity(manifest)] = (applied, _state(result))
        self.sink.put(result)
        return None

    async def _delete(self, namespace: str, document: Mapping[str, Any]) -> None:
        meta = document["metadata"]
        resource = BY_KIND[document["apiVersion"], document["kind"]]
        await self.writer.delete(resource, namespace, meta["name"], meta["uid"])
        fields = {"kind": document["kind"], "namespace": namespace, "object": meta["name"]}
        log.info("deleted, because it is wanted no longer", extra=fields)


def _state(document: Mapping[str, Any]) -> str:
    """Changes when somebody changes what the object says; not when a controller reports status."""
    meta = document["metadata"]
    generation = meta.get("generation")
    return f"g{generation}" if generation else f"v{meta.get('resourceVersion')}"
