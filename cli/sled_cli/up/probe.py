"""Asks a process over HTTP whether it serves. Decides nothing from the answer."""

from __future__ import annotations

from typing import Protocol

import httpx


class Probe(Protocol):
    """One question; the fake for tests is `sled_cli.up.fake_process.FakeProbe`."""

    async def ready(self, url: str) -> bool:
        """True when the address answers 200; never raises for a process that is not there."""
        ...


class HttpProbe:
    """Asks for real, with a time-out."""

    def __init__(self, timeout_seconds: float = 2.0) -> None:
        self._client = httpx.AsyncClient(timeout=timeout_seconds, trust_env=False)

    async def ready(self, url: str) -> bool:
        """See `Probe`."""
        try:
            return (await self._client.get(url)).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    async def close(self) -> None:
        """Close kept connections."""
        await self._client.aclose()
