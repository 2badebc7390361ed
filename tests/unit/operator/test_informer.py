from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from sled_operator.cluster import kinds
from sled_operator.cluster.base import Change, ClusterError, Expired, Page, Resource
from sled_operator.cluster.fake import FakeCluster
from sled_operator.informer import Informer, Key
from sled_operator.views import NodeView, node_view


def node(name: str, ready: str = "True", **labels: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": labels},
        "status": {
            "allocatable": {"cpu": "3900m", "memory": "8024Mi"},
            "nodeInfo": {"architecture": "arm64"},
            "conditions": [{"type": "Ready", "status": ready}],
        },
    }


class Log:
    def __init__(self) -> None:
        self.changes: list[tuple[str, bool, bool]] = []
        self.happened = asyncio.Event()

    def __call__(self, key: Key, old: NodeView | None, new: NodeView | None) -> None:
        self.changes.append((key[1], old is not None, new is not None))
        self.happened.set()

    async def more(self) -> None:
        async with asyncio.timeout(10):
            await self.happened.wait()
        self.happened.clear()


async def running(cluster: Any, log: Log, test: Callable[[Informer[NodeView]], Any]) -> None:
    informer = Informer(cluster, kinds.NODE, node_view, log)
    task = asyncio.create_task(informer.run())
    async with asyncio.timeout(10):
        await informer.synced.wait()
    log.happened.clear()
    try:
        await test(informer)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_list_then_watch() -> None:
    cluster, log = FakeCluster(), Log()
    for number in range(1200):
        cluster.put(kinds.NODE, node(f"n{number}"))

    async def test(informer: Informer[NodeView]) -> None:
        assert len(informer) == 1200
        cluster.put(kinds.NODE, node("new"))
        await log.more()
        assert informer.get(("", "new")) is not None
        cluster.remove(("nodes", "", "n7"))
        await log.more()
        assert informer.get(("", "n7")) is None

    await running(cluster, log, test)


async def test_what_is_not_kept_is_no_change() -> None:
    cluster, log = FakeCluster(), Log()
    cluster.put(kinds.NODE, node("a"))

    async def test(informer: Informer[NodeView]) -> None:
        heartbeat = node("a")
        heartbeat["status"]["conditions"][0]["lastHeartbeatTime"] = "later"
        cluster.put(kinds.NODE, heartbeat)
        cluster.put(kinds.NODE, node("a", ready="Unknown"))
        await log.more()
        assert log.changes == [("a", False, True), ("a", True, True)]
        view = informer.get(("", "a"))
        assert view is not None
        assert not view.online

    await running(cluster, log, test)


class Flaky(FakeCluster):
    """Breaks the first watch as a restarted API server does, after things have changed."""

    def __init__(self, error: ClusterError) -> None:
        super().__init__()
        self.error: ClusterError | None = error

    async def watch(
        self, resource: Resource, namespace: str, selector: str, resource_version: str
    ) -> AsyncIterator[Change]:
        if self.error is not None:
            error, self.error = self.error, None
            self.remove(("nodes", "", "a"))
            self.put(kinds.NODE, node("b"))
            raise error
        async for change in super().watch(resource, namespace, selector, resource_version):
            yield change


async def test_after_an_expired_watch_it_lists_again_and_notices_what_went() -> None:
    log = Log()
    cluster = Flaky(Expired(410, "too old"))
    cluster.put(kinds.NODE, node("a"))

    async def test(informer: Informer[NodeView]) -> None:
        while ("a", True, False) not in log.changes:
            await log.more()
        assert [key for key, _ in informer.items()] == [("", "b")]

    await running(cluster, log, test)


async def test_an_unreachable_server_is_waited_out() -> None:
    class Down(FakeCluster):
        failures = 2

        async def page(self, *arguments: Any) -> Page:
            if self.failures:
                self.failures -= 1
                raise ClusterError(0, "connection refused")
            return await super().page(*arguments)

    cluster, log = Down(), Log()
    cluster.put(kinds.NODE, node("a"))

    async def test(informer: Informer[NodeView]) -> None:
        assert len(informer) == 1

    await running(cluster, log, test)


def test_a_node_is_seen_for_what_it_is() -> None:
    view = node_view(node("a", zone="x"))
    assert (view.facts.cpus, view.facts.memory_mib, view.facts.architecture) == (3, 8024, "arm64")
    assert view.online
    strange = node_view({"metadata": {"name": "b"}, "status": {"allocatable": {"memory": "?"}}})
    assert strange.facts.memory_mib == 0
    assert not strange.online
