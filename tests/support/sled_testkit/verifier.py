"""A real verifier on loopback, in this process, for anybody's test: `async with running_verifier()
as address: …`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sled_verifier.config import VerifierConfig
from sled_verifier.engine.base import Engine
from sled_verifier.engine.fake import FakeEngine
from sled_verifier.server import VerifierServer
from sled_verifier.slots import SlotPolicy


def verifier_config(**overrides: Any) -> VerifierConfig:
    """A configuration with free ports on loopback; `overrides` are top-level fields of
    verifier.yaml, in either spelling. Nothing is measured at the start unless they say so: an
    engine that is made to fail shall see the test's own steps only.
    """
    overrides["batching"] = {"measureSeconds": 0, **overrides.get("batching", {})}
    settings: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "metricsListen": "127.0.0.1:0",
        "replica": "test-0",
        "model": {"name": "toy"},
        "engine": {"kind": "fake"},
        "drainSeconds": 5.0,
    }
    return VerifierConfig.model_validate({**settings, **overrides})


def total(server: VerifierServer, name: str, **labels: str) -> int:
    """A counter of the server's metrics; 0 while it has total nothing."""
    value = server.metrics.registry.get_sample_value(
        f"{name}_total", {"model_name": server.service.backend.info.model_name, **labels}
    )
    return int(value or 0)


@asynccontextmanager
async def running_server(
    *, engine: Engine | None = None, policy: SlotPolicy | None = None, **overrides: Any
) -> AsyncIterator[VerifierServer]:
    """A serving replica over `engine` (default: a `FakeEngine` with its defaults), stopped at the
    end.
    """
    server = VerifierServer(verifier_config(**overrides), engine or FakeEngine(), policy=policy)
    async with server:
        yield server


@asynccontextmanager
async def running_verifier(
    *, engine: Engine | None = None, policy: SlotPolicy | None = None, **overrides: Any
) -> AsyncIterator[str]:
    """The address of a serving replica; arguments as for `running_server`."""
    async with running_server(engine=engine, policy=policy, **overrides) as server:
        yield server.address
