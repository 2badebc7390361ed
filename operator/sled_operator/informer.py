"""Keeps a picture of one kind of object: a paginated list, then a watch, for ever.

Only what `project` keeps stays in memory. Must not decide anything: it says what changed.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from sled_operator.cluster.base import ClusterError, Expired, Object, Reader, Resource

T = TypeVar("T")
Key = tuple[str, str]
"""Namespace and name."""
PAGE = 500
MAX_BACKOFF_SECONDS = 30.0
log = logging.getLogger(__name__)


def key_of(document: Object) -> Key:
    """Namespace (empty for cluster-wide kinds) and name of an object."""
    meta = document["metadata"]
    return meta.get("namespace", ""), meta["name"]


class Informer(Generic[T]):
    """A live mapping from key to projected object.

    `changed(key, old, new)` is called on the event loop for every addition (old None), change and
    removal (new None), and never for a change that the projection does not see.
    """

    def __init__(
        self,
        reader: Reader,
        resource: Resource,
        project: Callable[[Object], T],
        changed: Callable[[Key, T | None, T | None], None],
        *,
        namespace: str = "",
        selector: str = "",
    ) -> None:
        self.resource = resource
        self.synced = asyncio.Event()
        self._items: dict[Key, T] = {}
        self._reader = reader
        self._project = project
        self._changed = changed
        self._namespace = namespace
        self._selector = selector

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: Key) -> T | None:
        """The object, if it exists."""
        return self._items.get(key)

    def items(self) -> Iterator[tuple[Key, T]]:
        """All objects; do not await while iterating."""
        return iter(self._items.items())

    def put(self, document: Object) -> None:
        """Take in what a write of ours returned, before the watch says it."""
        self._set(key_of(document), self._project(document))

    async def run(self) -> None:
        """List and watch until cancelled; failures are waited out, at most 30 s at a time."""
        failures = 0
        while True:
            try:
                version = await self._list()
                self.synced.set()
                failures = 0
                await self._watch(version)
            except Expired:
                log.info("listing again", extra={"resource": self.resource.plural})
            except ClusterError as error:
                failures += 1
                fields = {"resource": self.resource.plural, "status": error.status}
                log.warning("cannot watch: %s", error, extra=fields)
                await asyncio.sleep(_backoff(failures))

    async def _list(self) -> str:
        seen: set[Key] = set()
        token, version = "", ""
        while True:
            page = await self._reader.page(
                self.resource, self._namespace, self._selector, PAGE, token
            )
            version = page.resource_version
            for document in page.items:
                key = key_of(document)
                seen.add(key)
                self._set(key, self._project(document))
            token = page.next
            if not token:
                break
        for key in [key for key in self._items if key not in seen]:
            self._drop(key)
        return version

    async def _watch(self, version: str) -> None:
        """Follow changes; a watch that the server ends is taken up where it ended."""
        while True:
            async for change in self._reader.watch(
                self.resource, self._namespace, self._selector, version
            ):
                version = change.object["metadata"]["resourceVersion"]
                if change.type == "DELETED":
                    self._drop(key_of(change.object))
                elif change.type != "BOOKMARK":
                    self._set(key_of(change.object), self._project(change.object))

    def _set(self, key: Key, new: T) -> None:
        old = self._items.get(key)
        self._items[key] = new
        if old != new:
            self._changed(key, old, new)

    def _drop(self, key: Key) -> None:
        old = self._items.pop(key, None)
        if old is not None:
            self._changed(key, old, None)


def _backoff(failures: int) -> float:
    """Doubling, with jitter so that watches do not return in step."""
    longest = min(MAX_BACKOFF_SECONDS, 0.25 * 2 ** min(failures, 10))
    return random.uniform(longest / 2, longest)
