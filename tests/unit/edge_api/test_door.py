from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from sled_edge.api import InvalidSettings, build_app
from sled_edge.api.door import host_name, route_label
from sled_edge.fake_generation import ByteTokenizer, FakeGenerator
from sled_edge.metrics import EdgeMetrics

Make = Callable[..., httpx.AsyncClient]


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("localhost", "localhost"),
        ("LOCALHOST:8080", "localhost"),
        ("127.0.0.1:1", "127.0.0.1"),
        ("[::1]:8080", "[::1]"),
        ("[::1]", "[::1]"),
        ("[::1", ""),
        ("", ""),
    ],
)
def test_a_host_is_read_without_its_port(authority: str, host: str) -> None:
    assert host_name(authority) == host


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("/generate", "/generate"),
        ("/v1/models/org/name", "/v1/models/{id}"),
        ("/v1/nothing", "other"),
        ("/" + "x" * 1000, "other"),
    ],
)
def test_route_labels_are_a_closed_set(path: str, label: str) -> None:
    assert route_label(path) == label


@pytest.mark.parametrize("host", ["localhost", "localhost:99", "127.0.0.1:1", "[::1]:8080"])
async def test_loopback_names_are_served(client_of: Make, host: str) -> None:
    async with client_of(FakeGenerator()) as client:
        assert (await client.get("/info", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.2", ""])
@pytest.mark.parametrize("path", ["/info", "/v1/models"])
async def test_other_names_are_not(client_of: Make, host: str, path: str) -> None:
    async with client_of(FakeGenerator()) as client:
        reply = await client.get(path, headers={"Host": host})
    assert reply.status_code == 403
    assert "host_not_allowed" in reply.text


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost.evil"])
async def test_pages_of_other_origins_are_not_served(client_of: Make, origin: str) -> None:
    async with client_of(FakeGenerator()) as client:
        reply = await client.post("/generate", json={"inputs": "x"}, headers={"Origin": origin})
    assert reply.status_code == 403
    assert reply.json()["reason"] == "origin_not_allowed"


async def test_configured_names_are_served(client_of: Make) -> None:
    async with client_of(FakeGenerator(), allowed_hosts=("edge.lan",)) as client:
        assert (await client.get("/info", headers={"Host": "edge.lan:80"})).status_code == 200
        assert (await client.get("/info")).status_code == 403
    async with client_of(FakeGenerator(), allowed_hosts=("*",)) as client:
        assert (await client.get("/info", headers={"Host": "anything"})).status_code == 200


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("Bearer wrong", 401),
        ("Basic schlüssel", 401),
        ("Bearer schlüssel", 200),
        ("bearer  schlüssel ", 200),
    ],
)
async def test_the_key_opens_text_but_probes_need_none(
    client_of: Make, header: str | None, status: int
) -> None:
    headers = {} if header is None else {b"Authorization": header.encode("latin-1")}
    async with client_of(FakeGenerator(), api_key="schlüssel") as client:
        reply = await client.get("/v1/models", headers=headers)
        assert reply.status_code == status
        assert reply.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
        for path in ("/healthz", "/readyz", "/health", "/metrics"):
            assert (await client.get(path)).status_code == 200


@pytest.mark.parametrize(
    "options",
    [
        {"api_key": ""},
        {"max_body_bytes": 0},
        {"default_max_tokens": -1},
        {"request_seconds": float("nan")},
    ],
)
def test_unusable_settings_stop_the_start(options: dict[str, object]) -> None:
    (name,) = options
    with pytest.raises(InvalidSettings, match=name):
        build_app(FakeGenerator(), ByteTokenizer(), metrics=EdgeMetrics(), **options)  # type: ignore[arg-type]
