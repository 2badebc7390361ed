"""The application in process, over ASGI, in front of the shipped fakes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from sled_edge.api import build_app
from sled_edge.api.ask import Service
from sled_edge.api.settings import ApiSettings
from sled_edge.fake_generation import ByteTokenizer, FakeGenerator
from sled_edge.metrics import EdgeMetrics


@pytest.fixture
def service_of() -> Callable[..., Service]:
    def make(generator: FakeGenerator, **settings: Any) -> Service:
        return Service(generator, ByteTokenizer(), EdgeMetrics(), ApiSettings(**settings), 0)

    return make


@pytest.fixture
def client_of() -> Callable[..., httpx.AsyncClient]:
    def make(generator: FakeGenerator, **options: Any) -> httpx.AsyncClient:
        app = build_app(generator, ByteTokenizer(), metrics=EdgeMetrics(), **options)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://localhost")

    return make
