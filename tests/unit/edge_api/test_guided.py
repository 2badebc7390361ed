"""`response_format` of a chat: what becomes a guide, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from sled_edge.fake_generation import FakeGenerator
from sled_protocol.limits import MAX_SCHEMA_BYTES
from sled_speculation.sampling import Guide

SCHEMA = {
    "type": "object",
    "properties": {"\u00e9t\u00e9": {"type": "integer"}, "a": {"enum": [1]}},
}
Clients = Callable[..., httpx.AsyncClient]


def body(response_format: object, **more: Any) -> dict[str, Any]:
    user = {"role": "user", "content": "hello"}
    return {"messages": [user], "response_format": response_format, **more}


def json_schema(schema: object) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}


async def post(client: httpx.AsyncClient, document: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    reply = await client.post("/v1/chat/completions", json=document)
    answer: dict[str, Any] = reply.json()
    return reply.status_code, answer.get("error", {})


@pytest.mark.parametrize("able", [True, None])
async def test_formats_become_guides(client_of: Clients, able: bool | None) -> None:
    generator = FakeGenerator(can_guide=able)
    async with client_of(generator) as client:
        for wanted in (None, {"type": "text"}, {"type": "json_object"}, json_schema(SCHEMA)):
            assert (await post(client, body(wanted)))[0] == 200
    free, text, anything, schema = (request.sampling.guide for request in generator.requests)
    assert (free, text, anything) == (None, None, Guide())
    assert schema is not None
    assert list(json.loads(schema.json_schema or "")["properties"]) == list(SCHEMA["properties"])


async def test_a_target_that_cannot_guide(client_of: Clients) -> None:
    generator = FakeGenerator(can_guide=False)
    async with client_of(generator) as client:
        for wanted in ({"type": "json_object"}, json_schema(SCHEMA)):
            status, error = await post(client, body(wanted))
            assert (status, error["code"]) == (400, "unsupported_parameter")
            assert error["param"] == "response_format"
            assert "backend cannot guide" in error["message"]
        assert (await post(client, body({"type": "text"})))[0] == 200
    assert len(generator.requests) == 1


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ("json", "must be an object"),
        ({}, "type is text, json_object, json_schema"),
        ({"type": "grammar"}, "type is text, json_object, json_schema"),
        ({"type": "json_schema"}, "json_schema.schema must be"),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "json_schema.schema must be"),
        (json_schema([]), "json_schema.schema must be"),
        (json_schema({"const": "x" * MAX_SCHEMA_BYTES}), f"allowed: {MAX_SCHEMA_BYTES}"),
    ],
)
async def test_formats_that_are_none(client_of: Clients, wanted: object, says: str) -> None:
    generator = FakeGenerator(can_guide=True)
    async with client_of(generator) as client:
        status, error = await post(client, body(wanted))
    assert (status, error["code"], error["param"]) == (400, "invalid_request", "response_format")
    assert says in error["message"]
    assert generator.requests == []


async def test_no_guide_beyond_the_end_token(client_of: Clients) -> None:
    async with client_of(FakeGenerator(can_guide=True)) as client:
        status, error = await post(client, body({"type": "json_object"}, ignore_eos=True))
    assert (status, error["code"], error["param"]) == (400, "invalid_request", "response_format")


async def test_completions_and_tgi_offer_none(client_of: Clients) -> None:
    async with client_of(FakeGenerator(can_guide=True)) as client:
        reply = await client.post(
            "/v1/completions", json={"prompt": "x", "response_format": {"type": "json_object"}}
        )
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "response_format")
        grammar = {"grammar": {"type": "json", "value": {}}}
        reply = await client.post("/generate", json={"inputs": "x", "parameters": grammar})
        assert reply.status_code == 422
