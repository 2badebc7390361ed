"""A real server on loopback in front of the shipped fakes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import uvicorn

from sled_edge.api import build_app
from sled_edge.fake_generation import ByteTokenizer, FakeGenerator
from sled_edge.metrics import EdgeMetrics


@dataclass
class Served:
    url: str
    generator: FakeGenerator
    metrics: EdgeMetrics
    port: int


Serve = Callable[..., Awaitable[Served]]


class _Server(uvicorn.Server):
    """Tells when it listens, instead of being polled."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts servers: `await serve(generator, **build_app_options)`; all end with the test."""
    running: list[tuple[_Server, asyncio.Task[None]]] = []

    async def start(generator: FakeGenerator, **options: Any) -> Served:
        metrics = EdgeMetrics()
        app = build_app(generator, ByteTokenizer(), metrics=metrics, **options)
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")
        server = _Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        running.append((server, task))
        await asyncio.wait_for(server.listening.wait(), 10)
        port = listener.getsockname()[1]
        return Served(f"http://127.0.0.1:{port}", generator, metrics, port)

    yield start
    for server, task in running:
        server.should_exit = True
        server.force_exit = True
        await asyncio.wait_for(task, 10)
