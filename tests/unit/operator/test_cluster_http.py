"""The token of a request: asked for rarely, and anew as soon as it is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes_asyncio import client

from sled_operator.cluster import kinds
from sled_operator.cluster.base import ClusterError
from sled_operator.cluster.http import HttpCluster


class Api:
    """Takes one token at a time, as an API server does when tokens rotate."""

    def __init__(self) -> None:
        self.accepted = "Bearer first"
        self.read = 0

    async def answer(self, request: web.Request) -> web.Response:
        good = request.headers.get("Authorization") == self.accepted
        return web.json_response({"metadata": {"name": "pi"}}, status=200 if good else 401)

    def refresh(self, configuration: client.Configuration) -> None:
        self.read += 1
        configuration.api_key["BearerToken"] = self.accepted


@pytest.fixture
async def api() -> AsyncIterator[tuple[Api, HttpCluster]]:
    played = Api()
    application = web.Application()
    application.router.add_get("/{path:.*}", played.answer)
    async with TestServer(application) as server:
        configuration = client.Configuration()
        configuration.host = str(server.make_url("")).rstrip("/")
        configuration.api_key["BearerToken"] = "Bearer none"
        configuration.refresh_api_key_hook = played.refresh
        cluster = HttpCluster(configuration)
        yield played, cluster
        await cluster.close()


async def test_many_requests_ask_for_the_token_once(api: tuple[Api, HttpCluster]) -> None:
    played, cluster = api
    for _ in range(20):
        assert await cluster.get(kinds.NODE, "", "pi") is not None
    assert played.read == 1


async def test_a_refused_token_is_asked_for_anew(api: tuple[Api, HttpCluster]) -> None:
    played, cluster = api
    await cluster.get(kinds.NODE, "", "pi")
    played.accepted = "Bearer second"
    with pytest.raises(ClusterError) as refused:
        await cluster.get(kinds.NODE, "", "pi")
    assert refused.value.status == 401
    assert await cluster.get(kinds.NODE, "", "pi") is not None
