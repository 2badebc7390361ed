"""What the operator asks of a Kubernetes API server. Must not know SLED's resources.

Objects are plain JSON mappings: the operator handles many kinds, and decoding them into classes
costs more than everything else it does with them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

Object = dict[str, Any]


class ClusterError(Exception):
    """The API server answered with an error, or not at all (`status` 0)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status} {message}" if status else message)
        self.status = status


class Expired(ClusterError):
    """The resource version to watch from is too old: list again."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object, as its URL names it."""

    api_version: str
    plural: str
    kind: str
    namespaced: bool = True

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path of a collection, or of one object; no namespace means all of them."""
        root = "/api/v1" if self.api_version == "v1" else f"/apis/{self.api_version}"
        parts = [root]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/".join(parts)


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list; `next` is empty on the last."""

    items: list[Object]
    resource_version: str
    next: str


@dataclass(frozen=True, slots=True)
class Change:
    """One watch event: ADDED, MODIFIED, DELETED or BOOKMARK."""

    type: str
    object: Object


class Reader(Protocol):
    """Reading: one object, a page of a list, a watch."""

    async def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """The object, or None when there is none."""
        ...

    async def page(
        self, resource: Resource, namespace: str, selector: str, limit: int, token: str
    ) -> Page:
        """One page of at most `limit` objects. Raises Expired when `token` is too old."""
        ...

    def watch(
        self, resource: Resource, namespace: str, selector: str, resource_version: str
    ) -> AsyncIterator[Change]:
        """Changes after `resource_version`; ends when the server ends it. Raises Expired."""
        ...


class Writer(Protocol):
    """Writing. All of it may raise ClusterError."""

    async def apply(self, resource: Resource, manifest: Mapping[str, Any]) -> Object:
        """Server-side apply, taking over fields that others own; returns the object."""
        ...

    async def merge_patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        patch: Mapping[str, Any],
        subresource: str = "",
    ) -> Object:
        """JSON merge patch; returns the object."""
        ...

    async def create(self, resource: Resource, namespace: str, body: Mapping[str, Any]) -> Object:
        """Create an object; ClusterError 409 when it exists."""
        ...

    async def replace(
        self, resource: Resource, namespace: str, name: str, body: Mapping[str, Any]
    ) -> Object:
        """Replace an object; ClusterError 409 when its resourceVersion is not the newest."""
        ...

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str) -> None:
        """Delete that very object; quiet when it is gone already."""
        ...

    async def evict_now(self, namespace: str, pod: str, uid: str) -> None:
        """Evict that very pod without waiting for its node; quiet when it is gone already."""
        ...


class Cluster(Reader, Writer, Protocol):
    """Both."""
