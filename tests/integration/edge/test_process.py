"""`sled-edge` as a process: waits for its verifier, serves exact text over HTTP, ends in order."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from sled_edge.tokenizer import LlamaCppTokenizer
from sled_testkit.edge_wire import until_no_sequences
from sled_testkit.verifier import running_verifier
from sled_verifier.engine.fake import CostModel, FakeEngine, ToyModel

MODEL = ToyModel(vocab_size=300)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Edge:
    """A running `sled-edge`."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        self.url = url

    async def ready_line(self) -> str:
        """What it says once it serves."""
        if self.process.stdout is None:
            raise RuntimeError("no stdout")
        return (await self.process.stdout.readline()).decode()

    async def log_line(self, message: str) -> dict[str, Any]:
        """The next log line with this message."""
        if self.process.stderr is None:
            raise RuntimeError("no stderr")
        while raw := await self.process.stderr.readline():
            line: dict[str, Any] = json.loads(raw)
            if line["message"] == message:
                return line
        raise RuntimeError(f"it never said {message}")


@asynccontextmanager
async def running_edge(folder: Path, verifier: str, **more: Any) -> AsyncIterator[Edge]:
    port = _free_port()
    config = folder / "edge.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "listen": f"127.0.0.1:{port}",
                "deviceId": "pi-1",
                "verifiers": [verifier],
                "drafter": {"kind": "ngram"},
                **more,
            }
        )
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sled_edge", "--config", str(config),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        yield Edge(process, f"http://127.0.0.1:{port}")
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _ask(tokens: int, *, stream: bool = False) -> dict[str, Any]:
    return {
        "prompt": "hello",
        "max_tokens": tokens,
        "temperature": 0,
        "stream": stream,
    }


@asynccontextmanager
async def _client(edge: Edge) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.AsyncHTTPTransport(retries=20)
    async with httpx.AsyncClient(
        base_url=edge.url, transport=transport, timeout=30, trust_env=False
    ) as client:
        yield client


async def test_refuses_typed_until_its_verifier_is_there_then_serves_exact_text(
    tmp_path: Path,
) -> None:
    listen = f"127.0.0.1:{_free_port()}"
    async with running_edge(tmp_path, listen) as edge, _client(edge) as client:
        # The socket is bound before anything else, so requests wait until they are served.
        await edge.log_line("no stream to a verifier")
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/readyz")).status_code == 503
        refused = await client.post("/v1/completions", json=_ask(5))
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "unavailable"
        assert int(refused.headers["retry-after"]) >= 1
        engine = FakeEngine(model=MODEL)
        async with running_verifier(engine=engine, listen=listen) as address:
            assert await edge.ready_line() == f"sled-edge pi-1: toy ready on {edge.url}\n"
            assert (await client.get("/readyz")).status_code == 200
            reply = await client.post("/v1/completions", json=_ask(30))
            assert reply.status_code == 200
            body = reply.json()
            tokenizer = LlamaCppTokenizer.from_bytes(engine.tokenizer_gguf())
            prompt = tokenizer.encode("hello", special=True)
            expected = b"".join(map(tokenizer.piece, MODEL.greedy(prompt, 30)))
            assert body["usage"]["completion_tokens"] == 30
            assert body["choices"][0]["text"] == expected.decode("utf-8", "replace")
            stats = await until_no_sequences(address)
            assert stats.connected_devices == 1
            edge.process.send_signal(signal.SIGTERM)
            assert await edge.process.wait() == 0
        assert await edge.ready_line() == ""


async def test_a_signal_lets_a_text_under_way_finish(tmp_path: Path) -> None:
    engine = FakeEngine(model=MODEL, cost=CostModel(step_seconds=0.005))
    async with (
        running_verifier(engine=engine) as address,
        running_edge(tmp_path, address) as edge,
        _client(edge) as client,
    ):
        await edge.ready_line()
        events: list[str] = []
        async with client.stream("POST", "/v1/completions", json=_ask(30, stream=True)) as reply:
            async for line in reply.aiter_lines():
                if not events:
                    edge.process.send_signal(signal.SIGTERM)
                if line.startswith("data: "):
                    events.append(line)
        assert events[-1] == "data: [DONE]"
        assert '"finish_reason":"length"' in "".join(events)
        assert await edge.process.wait() == 0
        await until_no_sequences(address)


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    engine = FakeEngine(model=MODEL, cost=CostModel(step_seconds=0.2))
    async with (
        running_verifier(engine=engine) as address,
        running_edge(tmp_path, address) as edge,
        _client(edge) as client,
    ):
        await edge.ready_line()
        with pytest.raises(httpx.HTTPError):
            await _read_while_signalled_twice(client, edge)
        assert await edge.process.wait() == 128 + signal.SIGTERM
        # The verifier frees what a dead device held.
        await until_no_sequences(address)


async def _read_while_signalled_twice(client: httpx.AsyncClient, edge: Edge) -> None:
    endless = _ask(2000, stream=True)
    async with client.stream("POST", "/v1/completions", json=endless) as reply:
        async for line in reply.aiter_lines():
            if line:
                edge.process.send_signal(signal.SIGTERM)
                await edge.log_line("stopping")
                edge.process.send_signal(signal.SIGTERM)
