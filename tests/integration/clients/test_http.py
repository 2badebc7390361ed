"""What plain HTTP clients see: TGI's other paths, probes, metrics, and clients that misbehave."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sled_edge.fake_generation import Failure, FakeGenerator, say
from sled_edge.generation import GenerationError

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}


def http(served: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=served.url, timeout=20)


async def scrape(served: Any) -> dict[str, float]:
    """Every sample of /metrics as `name{label=value}`."""
    async with http(served) as client:
        reply = await client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    return {
        sample.name
        + "".join(f"{{{k}={v}}}" for k, v in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(reply.text)
        for sample in family.samples
    }


async def test_tgi_s_own_paths(serve: Any) -> None:
    served = await serve(FakeGenerator(say("abc"), model="org/target-7b", context=512))
    async with http(served) as client:
        plain = await client.post("/generate", json={"inputs": "x"})
        detailed = await client.post(
            "/generate", json={"inputs": "x", "parameters": {"details": True}}
        )
        streamed = await client.post("/generate_stream", json={"inputs": "x"})
        compatible = await client.post("/", json={"inputs": "x"})
        info = (await client.get("/info")).json()
        health = await client.get("/health")
    assert plain.json() == {"generated_text": "abc"}
    assert compatible.json() == [{"generated_text": "xabc"}]
    assert plain.headers["x-sled-verified"] == "true"
    assert len(detailed.json()["details"]["tokens"]) == 4
    assert streamed.headers["content-type"].startswith("text/event-stream")
    last = json.loads(streamed.text.strip().splitlines()[-1].removeprefix("data: "))
    assert last["generated_text"] == "abc"
    assert last["details"] is None
    assert info["model_id"] == "org/target-7b"
    assert info["max_total_tokens"] == 512
    assert info["max_stop_sequences"] == 4
    assert health.status_code == 200


async def test_probes_tell_alive_from_ready(serve: Any) -> None:
    served = await serve(FakeGenerator(is_ready=False), api_key="key")
    async with http(served) as client:
        assert (await client.get("/healthz")).status_code == 200
        ready = await client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["reason"] == "unavailable"
        health = await client.get("/health")
        assert health.status_code == 503
        assert health.json()["error_type"] == "healthcheck"
        served.generator.is_ready = True
        assert (await client.get("/readyz")).status_code == 200
        probe = await client.get("/readyz", headers={"Host": "10.0.0.7:8080"})
        assert probe.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
    ],
)
async def test_wrong_paths_and_methods_are_typed(
    serve: Any, method: str, path: str, status: int, code: str
) -> None:
    async with http(await serve(FakeGenerator())) as client:
        reply = await client.request(method, path)
    assert reply.status_code == status
    assert reply.json()["error"]["code"] == code


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b'{"messages": NaN}', b'{"a": "\xff"}', b'{"a":"\\ud800"}']
)
async def test_bodies_that_are_no_json_object_are_refused(serve: Any, body: bytes) -> None:
    async with http(await serve(FakeGenerator())) as client:
        openai_reply = await client.post("/v1/chat/completions", content=body)
        tgi_reply = await client.post("/generate", content=body)
    assert openai_reply.status_code == 400
    assert openai_reply.json()["error"]["code"] == "invalid_request"
    assert tgi_reply.status_code == 422
    assert tgi_reply.json()["error_type"] == "validation"


async def test_a_body_in_chunks_is_bounded_too(serve: Any) -> None:
    async def chunks() -> Any:
        for _ in range(100):
            yield b" " * 100

    async with http(await serve(FakeGenerator(), max_body_bytes=1000)) as client:
        reply = await client.post("/v1/chat/completions", content=chunks())
    assert reply.status_code == 413


async def test_a_bug_is_answered_without_internals(serve: Any) -> None:
    served = await serve(FakeGenerator(failure=Failure(RuntimeError("SECRET"))))
    async with http(served) as client:
        reply = await client.post("/v1/chat/completions", json=CHAT)
    assert reply.status_code == 500
    assert reply.json()["error"]["code"] == "internal"
    assert "SECRET" not in reply.text


async def test_metrics_count_rounds_requests_and_refusals(serve: Any) -> None:
    generator = FakeGenerator(say("abcdef"), round_tokens=(3,), unverified_rounds=frozenset({1}))
    served = await serve(generator)
    async with http(served) as client:
        await client.post("/v1/chat/completions", json=CHAT)
        await client.post("/generate", json={"inputs": "x", "parameters": {"best_of": 3}})
        await client.get("/nowhere/at/all")
        generator.failure = Failure(GenerationError("queue_full", "full"))
        await client.post("/v1/chat/completions", json=CHAT | {"stream": True})
    samples = await scrape(served)
    for name, value in {
        "sled_edge_spec_decode_num_drafts_total": 1,
        "sled_edge_spec_decode_num_draft_tokens_total": 2,
        "sled_edge_spec_decode_num_accepted_tokens_total": 2,
        "sled_edge_spec_decode_num_accepted_tokens_per_pos_total{position=1}": 1,
        "sled_edge_round_seconds_count": 2,  # the round that only says the end was one too
        "sled_edge_uplink_bytes_total": 24 + 8 + 24,
        "sled_edge_downlink_bytes_total": 2 * 28,
        "sled_edge_generation_tokens_total": 6,
        "sled_edge_unverified_tokens_total": 3,
        "sled_edge_generations_total{finish=end_token}": 1,
        "sled_edge_generations_total{finish=queue_full}": 1,
        "sled_edge_num_requests_running": 0,
        "sled_edge_verifier_connected": 0,
        "sled_edge_requests_total{code=200}{route=/v1/chat/completions}": 1,
        "sled_edge_requests_total{code=429}{route=/v1/chat/completions}": 1,
        "sled_edge_requests_total{code=422}{route=/generate}": 1,
        "sled_edge_requests_total{code=404}{route=other}": 1,
        "sled_edge_refusals_total{reason=unsupported_parameter}": 1,
        "sled_edge_refusals_total{reason=queue_full}": 1,
        "sled_edge_refusals_total{reason=not_found}": 1,
    }.items():
        assert samples[name] == value, name


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/generate_stream"])
async def test_a_client_that_leaves_in_mid_stream_frees_its_generation_at_once(
    serve: Any, path: str
) -> None:
    generator = FakeGenerator(say("abcdefgh"), hold_after_rounds=1)
    served = await serve(generator)
    body = {**CHAT, "prompt": "x", "inputs": "x", "stream": True}
    async with http(served) as client, client.stream("POST", path, json=body) as reply:
        assert reply.status_code == 200
        await anext(reply.aiter_raw())
        assert generator.active == 1
    await asyncio.wait_for(generator.idle(), 10)
    assert generator.closed == 1
    assert (await scrape(served))["sled_edge_generations_total{finish=client_gone}"] == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/"])
async def test_a_client_that_leaves_before_the_first_byte_frees_its_generation_at_once(
    serve: Any, path: str, stream: bool
) -> None:
    generator = FakeGenerator(hold_after_rounds=0)
    served = await serve(generator)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    body = json.dumps({**CHAT, "inputs": "x", "stream": stream}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await generator.started()
    writer.close()
    await asyncio.wait_for(generator.idle(), 10)
    assert generator.closed == 1
    del reader


async def test_a_body_that_never_comes_is_given_up(serve: Any) -> None:
    served = await serve(FakeGenerator(), body_seconds=0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    status = await asyncio.wait_for(reader.readline(), 10)
    assert b" 408 " in status
    writer.close()
