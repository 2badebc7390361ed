"""/metrics, /healthz, /readyz and /devices over HTTP/1.1, on the event loop, so that a blocked loop fails its
liveness probe by itself.

Answers GET and HEAD of these four paths and nothing else; must not serve anything that a device or
a person could change.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

_log = logging.getLogger(__name__)

DEVICES_PATH = "/devices"
"""How many devices are connected, for the other replicas; 503 while this one does not serve."""
MAX_CONNECTIONS = 128
REQUEST_SECONDS = 5.0
MAX_HEAD_BYTES = 16_384

Probe = Callable[[], str | None]
"""None when all is well, else what is wrong in a sentence."""

_Answer = tuple[HTTPStatus, str, bytes]


class ProbeServer:
    """One listener; `alive`, `ready` and `devices` are asked at each request."""

    def __init__(
        self,
        registry: CollectorRegistry,
        alive: Probe,
        ready: Probe,
        devices: Callable[[], int],
    ) -> None:
        self._registry = registry
        self._devices = devices
        self._probes = {"/healthz": alive, "/readyz": ready, DEVICES_PATH: ready}
        self._connections = 0
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port. Raises OSError when the address cannot be used."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=MAX_HEAD_BYTES)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections <= MAX_CONNECTIONS:
                async with asyncio.timeout(REQUEST_SECONDS):
                    await self._answer(reader, writer)
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            # A prober that is slow, gone or not speaking HTTP gets no answer; nothing depends on
            # it.
            _log.debug("probe connection dropped")
        finally:
            self._connections -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, _, rest = head[0].partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        accept = next(
            (line.partition(":")[2] for line in head[1:] if line.lower().startswith("accept:")), ""
        )
        status, content_type, body = self._respond(method, path, accept)
        lines = (
            f"HTTP/1.1 {status.value} {status.phrase}",
            f"Content-Type: {content_type}",
            f"Content-Length: {len(body)}",
            "Connection: close",
            "",
            "",
        )
        writer.write("\r\n".join(lines).encode("latin-1") + (b"" if method == "HEAD" else body))
        await writer.drain()

    def _respond(self, method: str, path: str, accept: str) -> _Answer:
        if method not in ("GET", "HEAD"):
            return _text(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD")
        if path == "/metrics":
            encode, content_type = choose_encoder(accept)
            return HTTPStatus.OK, content_type, encode(self._registry)
        probe = self._probes.get(path)
        if probe is None:
            return _text(HTTPStatus.NOT_FOUND, "here are /metrics, /healthz, /readyz and /devices")
        trouble = probe()
        if trouble is None:
            return _text(HTTPStatus.OK, str(self._devices()) if path == DEVICES_PATH else "ok")
        return _text(HTTPStatus.SERVICE_UNAVAILABLE, trouble)


def _text(status: HTTPStatus, sentence: str) -> _Answer:
    return status, "text/plain; charset=utf-8", f"{sentence}\n".encode()
