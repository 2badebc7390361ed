"""/metrics, /healthz and /readyz of the operator. Must not serve anything else."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import generate_latest

from sled_operator.metrics import Metrics


async def start(
    port: int, metrics: Metrics, refresh: Callable[[], None], alive: Callable[[], bool]
) -> web.AppRunner:
    """Start serving on all addresses; a replica that waits for the lease is ready too.

    Args:
        port: TCP port.
        metrics: what /metrics shows.
        refresh: called before each /metrics.
        alive: whether /healthz says so.
    """

    async def show_metrics(request: web.Request) -> web.Response:
        refresh()
        body = generate_latest(metrics.registry)
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4"})

    async def show_health(request: web.Request) -> web.Response:
        return web.Response(text="ok") if alive() else web.Response(status=503, text="stuck")

    app = web.Application()
    app.router.add_get("/metrics", show_metrics)
    app.router.add_get("/healthz", show_health)
    app.router.add_get("/readyz", show_health)
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner
