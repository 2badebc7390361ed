"""kopf handlers: they hand each change of a resource to the queue, and do nothing else.

kopf runs in a thread with an event loop of its own, because on exit it waits for and cancels every
task of its loop, and because in the main thread it takes over the signals.

Only `event` handlers: kopf then writes no annotation, sets no finalizer and keeps no state in the
user's resource, and a resource that cannot be parsed stops nobody.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import kopf

from sled_operator.settings import Settings
from sled_operator.spec import GROUP, VERSION
from sled_operator.world import DRAFTER, SERVER, WorkKey

EXIT_SECONDS = 5.0
PLURALS = {"sledservers": SERVER, "edgedrafters": DRAFTER}


def registry(look: Callable[[WorkKey], None]) -> kopf.OperatorRegistry:
    """Handlers that call `look` with the key of whatever changed."""
    handlers = kopf.OperatorRegistry()
    kopf.on.login(registry=handlers, errors=kopf.ErrorsMode.TEMPORARY)(kopf.login_via_async_client)
    for plural, kind in PLURALS.items():

        def changed(name: str, namespace: str | None, kind: str = kind, **_: Any) -> None:
            look((kind, namespace or "default", name))

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


async def watch(look: Callable[[WorkKey], None], settings: Settings) -> None:
    """Watch both kinds until cancelled; `look` is called on the calling loop.

    Raises:
        WatchEnded: kopf gave up.
    """
    loop = asyncio.get_running_loop()
    stop = threading.Event()

    def pass_on(key: WorkKey) -> None:
        loop.call_soon_threadsafe(look, key)

    def run() -> None:
        asyncio.run(
            kopf.operator(
                registry=registry(pass_on),
                settings=kopf_settings(settings),
                clusterwide=not settings.watch_namespace,
                namespaces=[settings.watch_namespace] if settings.watch_namespace else [],
                standalone=True,
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
