"""One `sled-edge` process: socket, HTTP server, signals, one ready line, orderly end. Must not know how text is made."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Iterator

import uvicorn

from sled_edge.config import EdgeConfig, split_address
from sled_edge.log import fields
from sled_edge.service import EdgeService, StartFailed

log = logging.getLogger(__name__)

GRACE_SECONDS = 10
"""From SIGTERM until texts under way are broken off with a typed error."""
REPLY_SECONDS = 3
"""For that error to reach the clients; then connections are cut."""
MAX_CONNECTIONS = 512
LOOK_SECONDS = 0.05


class _Server(uvicorn.Server):
    """Leaves signals to this module: two owners would race for them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(address: str) -> socket.socket:
    """A listening socket, so that a taken port is known before anything is loaded.

    Raises:
        StartFailed: the address cannot be bound.
    """
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise StartFailed(f"listen: cannot bind {address}: {error.strerror or error}") from error


async def serve(config: EdgeConfig) -> None:
    """Run until SIGTERM or SIGINT, then end in order within `GRACE_SECONDS` + `REPLY_SECONDS`
    and a little.

    A second signal ends the process at once, with 128 + its number.

    Raises:
        StartFailed: the service cannot start.
    """
    stop = asyncio.Event()
    with bind(config.listen) as listener, _signals(stop):
        service = await _start(config, stop)
        try:
            await _serve_http(service, listener, stop)
        finally:
            await service.close()
    log.info("stopped")


async def _start(config: EdgeConfig, stop: asyncio.Event) -> EdgeService:
    starting = asyncio.create_task(EdgeService.start(config), name="sled-start")
    stopping = asyncio.create_task(stop.wait(), name="sled-stop")
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        log.info("stopped while loading the draft model")
        # The loading thread cannot be interrupted, and nothing it holds outlives the process.
        os._exit(0)
    stopping.cancel()
    return starting.result()


async def _serve_http(service: EdgeService, listener: socket.socket, stop: asyncio.Event) -> None:
    server = _Server(_http_config(service))
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="sled-http")
    announcing = asyncio.create_task(
        _announce(service, server, listener.getsockname()), name="sled-announce"
    )
    stopping = asyncio.create_task(stop.wait(), name="sled-stop")
    try:
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        log.info("stopping", extra=fields(grace_seconds=GRACE_SECONDS))
        service.loop.refuse_new()
        server.should_exit = True
        ending = asyncio.get_running_loop().call_later(GRACE_SECONDS, service.loop.break_off)
        await serving
        ending.cancel()
    finally:
        for task in (announcing, stopping):
            task.cancel()
        await asyncio.gather(announcing, stopping, return_exceptions=True)


def _http_config(service: EdgeService) -> uvicorn.Config:
    return uvicorn.Config(
        service.app(),
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=GRACE_SECONDS + REPLY_SECONDS,
    )


async def _announce(
    service: EdgeService, server: uvicorn.Server, address: tuple[object, ...]
) -> None:
    """The one ready line, once a request would be served."""
    # uvicorn has no event for having started, and readiness is a function of the link.
    while not (server.started and service.loop.ready()):  # noqa: ASYNC110
        await asyncio.sleep(LOOK_SECONDS)
    host, port = address[0], address[1]
    shown = f"[{host}]" if ":" in str(host) else host
    config, model = service.config, service.loop.model_name() or "no verifier yet, draft model"
    print(f"sled-edge {config.device_id}: {model} ready on http://{shown}:{port}", flush=True)


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    watched = (signal.SIGTERM, signal.SIGINT)

    def on_signal(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in watched:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        for number in watched:
            loop.remove_signal_handler(number)
