"""A `Cluster` in memory, for tests: keeps objects, counts writes, answers watches.

It merges an applied manifest into the object and drops what the same manager applied before and
applies no longer. It knows no admission, defaulting or controllers: those need a real API server.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sled_operator.cluster import kinds
from sled_operator.cluster.base import Change, ClusterError, Object, Page, Resource

Key = tuple[str, str, str]


@dataclass(slots=True)
class FakeCluster:
    """All objects by (plural, namespace, name); `writes` lists verb and key of each write."""

    objects: dict[Key, Object] = field(default_factory=dict)
    writes: list[tuple[str, Key]] = field(default_factory=list)
    refuse: dict[str, ClusterError] = field(default_factory=dict)
    """Errors to raise for writes to a plural."""
    _version: int = 0
    _log: list[tuple[int, Key, Change]] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, resource: Resource, document: Mapping[str, Any]) -> Object:
        """Seed or change an object as somebody else would; not counted as a write."""
        body = copy.deepcopy(dict(document))
        key = _key(resource, body["metadata"].get("namespace", ""), body["metadata"]["name"])
        return self._store(key, body)

    def find(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """The object without waiting."""
        return self.objects.get(_key(resource, namespace, name))

    async def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """See Reader."""
        return copy.deepcopy(self.find(resource, namespace, name))

    async def page(
        self, resource: Resource, namespace: str, selector: str, limit: int, token: str
    ) -> Page:
        """See Reader; `token` is an offset."""
        found = [
            copy.deepcopy(body)
            for key, body in sorted(self.objects.items())
            if _chosen(resource, namespace, selector, key, body)
        ]
        start = int(token or 0)
        more = str(start + limit) if start + limit < len(found) else ""
        return Page(found[start : start + limit], str(self._version), more)

    async def watch(
        self, resource: Resource, namespace: str, selector: str, resource_version: str
    ) -> AsyncIterator[Change]:
        """See Reader; never ends."""
        seen = int(resource_version)
        while True:
            self._changed.clear()
            for version, key, change in self._log:
                if version > seen and _chosen(resource, namespace, selector, key, change.object):
                    yield Change(change.type, copy.deepcopy(change.object))
            seen = max(seen, self._version)
            await self._changed.wait()

    async def apply(self, resource: Resource, manifest: Mapping[str, Any]) -> Object:
        """See Writer."""
        meta = manifest["metadata"]
        key = self._write("apply", resource, meta.get("namespace", ""), meta["name"])
        old = self.objects.get(key, {})
        before = old.get("_applied", {})
        body = _overlay(_without(copy.deepcopy(old), before, manifest), manifest)
        body["_applied"] = copy.deepcopy(dict(manifest))
        return copy.deepcopy(self._store(key, body))

    async def merge_patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        patch: Mapping[str, Any],
        subresource: str = "",
    ) -> Object:
        """See Writer."""
        key = self._write(f"patch {subresource}".strip(), resource, namespace, name)
        if key not in self.objects:
            raise ClusterError(404, f"{name} not found")
        body = _overlay(copy.deepcopy(self.objects[key]), patch)
        return copy.deepcopy(self._store(key, body, spec_changed=not subresource))

    async def create(self, resource: Resource, namespace: str, body: Mapping[str, Any]) -> Object:
        """See Writer."""
        name = body["metadata"].get("name") or f"generated-{self._version}"
        key = self._write("create", resource, namespace, name)
        if key in self.objects:
            raise ClusterError(409, f"{name} already exists")
        return copy.deepcopy(self._store(key, copy.deepcopy(dict(body))))

    async def replace(
        self, resource: Resource, namespace: str, name: str, body: Mapping[str, Any]
    ) -> Object:
        """See Writer."""
        key = self._write("replace", resource, namespace, name)
        old = self.objects.get(key)
        version = body["metadata"].get("resourceVersion")
        if old is None or old["metadata"]["resourceVersion"] != version:
            raise ClusterError(409, f"{name} has changed")
        return copy.deepcopy(self._store(key, copy.deepcopy(dict(body))))

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str) -> None:
        """See Writer."""
        key = self._write("delete", resource, namespace, name)
        self.remove(key)

    async def evict_now(self, namespace: str, pod: str, uid: str) -> None:
        """See Writer."""
        key = self._write("evict", kinds.POD, namespace, pod)
        if self.objects.get(key, {}).get("metadata", {}).get("uid") == uid:
            self.remove(key)

    def remove(self, key: Key) -> None:
        """Delete as somebody else would."""
        body = self.objects.pop(key, None)
        if body is not None:
            self._note("DELETED", key, body)

    def _write(self, verb: str, resource: Resource, namespace: str, name: str) -> Key:
        key = _key(resource, namespace, name)
        self.writes.append((verb, key))
        if resource.plural in self.refuse:
            raise self.refuse[resource.plural]
        return key

    def _store(self, key: Key, body: Object, spec_changed: bool = True) -> Object:
        known = key in self.objects
        meta = body.setdefault("metadata", {})
        meta.setdefault("uid", f"uid-{self._version}")
        meta["generation"] = meta.get("generation", 0) + (1 if spec_changed else 0)
        self.objects[key] = body
        self._note("MODIFIED" if known else "ADDED", key, body)
        return body

    def _note(self, change: str, key: Key, body: Object) -> None:
        self._version += 1
        body["metadata"]["resourceVersion"] = str(self._version)
        self._log.append((self._version, key, Change(change, copy.deepcopy(body))))
        self._changed.set()


def _key(resource: Resource, namespace: str, name: str) -> Key:
    return (resource.plural, namespace if resource.namespaced else "", name)


def _chosen(resource: Resource, namespace: str, selector: str, key: Key, body: Object) -> bool:
    if key[0] != resource.plural or (namespace and key[1] != namespace):
        return False
    labels = body["metadata"].get("labels", {})
    wanted = dict(part.split("=", 1) for part in selector.split(",") if part)
    return all(labels.get(name) == value for name, value in wanted.items())


def _overlay(base: Object, patch: Mapping[str, Any]) -> Object:
    for name, value in patch.items():
        if value is None:
            base.pop(name, None)
        elif isinstance(value, Mapping):
            below = base.get(name)
            base[name] = _overlay(dict(below) if isinstance(below, Mapping) else {}, value)
        else:
            base[name] = copy.deepcopy(value)
    return base


def _without(base: Object, before: Mapping[str, Any], now: Mapping[str, Any]) -> Object:
    """`base` without what was applied before and is applied no longer."""
    for name, value in before.items():
        if name not in now:
            base.pop(name, None)
        elif isinstance(value, Mapping) and isinstance(base.get(name), dict):
            _without(base[name], value, now[name] if isinstance(now[name], Mapping) else {})
    return base
