"""A few lines of HTTP client on the event loop, for probes and metrics."""

from __future__ import annotations

import asyncio


async def exchange(address: str, request: bytes) -> bytes:
    """Send raw bytes and return everything that comes back."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        await writer.drain()
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


async def get(address: str, path: str, method: str = "GET", accept: str = "*/*") -> tuple[int, str]:
    """(status, body) of one request."""
    request = f"{method} {path} HTTP/1.1\r\nHost: test\r\nAccept: {accept}\r\n\r\n"
    head, _, body = (await exchange(address, request.encode())).partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()
