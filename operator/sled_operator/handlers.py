"""kopf handlers: they hand each change of a resource to the queue, and do nothing else.

kopf runs in a thread with an event loop of its own, because on exit it waits for and cancels every
task of its loop, and because in the main thread it takes over the signals.

Only `event` handlers: kopf then writes no annotation, sets no finalizer and keeps no state in the
user's resource, and a resource that cannot be parsed stops nobody.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any

import kopf
from kopf._core.engines.peering import Identity

from sled_operator.settings import Settings
from sled_operator.spec import GROUP, VERSION
from sled_operator.world import DRAFTER, SERVER, WorkKey

EXIT_SECONDS = 5.0
PLURALS = {"sledservers": SERVER, "edgedrafters": DRAFTER}


class Wishes:
    """Tells what a user changed from what only a status says, which is nearly always our own."""

    def __init__(self) -> None:
        self._seen: dict[WorkKey, tuple[object, ...]] = {}

    def changed(self, what: str | None, key: WorkKey, meta: Mapping[str, Any]) -> bool:
        """Take in an event of a watch: its type (None while listing), whose it is, and the object's
        metadata.
        """
        asked = tuple(meta.get(each) for each in _ASKED)
        known = self._seen.get(key)
        if what == "DELETED":
            self._seen.pop(key, None)
            return True
        self._seen[key] = asked
        return known != asked


_ASKED = ("uid", "generation", "deletionTimestamp", "labels", "annotations")


def registry(
    look: Callable[[WorkKey], None], look_soon: Callable[[WorkKey], None]
) -> kopf.OperatorRegistry:
    """Handlers that call `look` with the key of what a user changed, `look_soon` where only the
    status did, which is nearly always our own writing.
    """
    handlers = kopf.OperatorRegistry()
    wishes = Wishes()
    kopf.on.login(registry=handlers, errors=kopf.ErrorsMode.TEMPORARY)(kopf.login_via_async_client)
    for plural, kind in PLURALS.items():

        def changed(body: kopf.Body, event: kopf.RawEvent, kind: str = kind, **_: Any) -> None:
            meta = body["metadata"]
            key = (kind, meta.get("namespace") or "default", meta["name"])
            (look if wishes.changed(event["type"], key, meta) else look_soon)(key)

        kopf.on.event(GROUP, VERSION, plural, registry=handlers, id=f"{plural}-changed")(changed)
    return handlers


def kopf_settings(settings: Settings) -> kopf.OperatorSettings:
    """Watching only: no posting of events, no peering (the lease does that), no CRD scanning."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False
    chosen.scanning.disabled = True
    chosen.peering.standalone = True
    chosen.queueing.worker_limit = 16
    chosen.process.ultimate_exiting_timeout = 10
    # an API server may be away for long; the lease decides when to start over
    chosen.networking.error_backoffs = (1, 1, 2, 3, *(5,) * 1000)
    return chosen


class WatchEnded(Exception):
    """kopf stopped watching without being asked to."""


async def watch(
    look: Callable[[WorkKey], None], look_soon: Callable[[WorkKey], None], settings: Settings
) -> None:
    """Watch both kinds until cancelled; `look` and `look_soon` are called on the calling loop.

    Raises:
        WatchEnded: kopf gave up.
    """
    loop = asyncio.get_running_loop()
    stop = threading.Event()

    def here(call: Callable[[WorkKey], None]) -> Callable[[WorkKey], None]:
        def pass_on(key: WorkKey) -> None:
            loop.call_soon_threadsafe(call, key)

        return pass_on

    def run() -> None:
        asyncio.run(
            kopf.operator(
                registry=registry(here(look), here(look_soon)),
                settings=kopf_settings(settings),
                clusterwide=not settings.watch_namespace,
                namespaces=[settings.watch_namespace] if settings.watch_namespace else [],
                standalone=True,
                # else kopf asks for the user's name, which a container's user may not have
                identity=Identity(settings.identity),
                stop_flag=stop,
            )
        )

    thread = asyncio.ensure_future(asyncio.to_thread(run))
    try:
        await asyncio.shield(thread)
        raise WatchEnded("kopf has ended")
    finally:
        stop.set()
        await asyncio.wait({thread}, timeout=EXIT_SECONDS)
