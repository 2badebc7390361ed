from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from sled_cli.watch.device import read_device
from sled_verifier.engine.fake import ToyModel

from .conftest import STOP_SECONDS, Sled, alive, documents, exited, listening

Up = Callable[..., contextlib.AbstractAsyncContextManager[Sled]]
TOY = ToyModel(256)
MESSAGES: Any = [{"role": "user", "content": "Write, write, write."}]
TOKENS = 800
IDS = {"return_token_ids": True}


async def text_of(
    url: str, max_tokens: int, on_first: Callable[[], Awaitable[None]]
) -> tuple[Any, list[int]]:
    """Prompt ids and output ids of one streamed chat, by the client that everybody uses."""
    prompt, ids = None, []
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="toy",
            messages=MESSAGES,
            max_tokens=max_tokens,
            temperature=0,
            stream=True,
            extra_body=IDS,
        )
        async for chunk in stream:
            extra = chunk.model_dump()
            if prompt is None:
                prompt = extra["prompt_token_ids"]
                await on_first()
            ids += [token for choice in extra["choices"] for token in choice["token_ids"]]
    return prompt, ids


async def test_a_fleet_serves_survives_a_killed_verifier_and_leaves_nothing(up: Up) -> None:
    async with up(documents("Fake", "NGram")) as sled:
        await sled.until("ready: ")
        state = sled.state()
        assert state["ready"]
        assert [d["name"] for d in state["devices"]] == ["fake-0", "ngram-0"]
        victim = state["verifiers"][0]["pid"]
        everybody_writes = asyncio.Barrier(len(state["devices"]))

        async def kill_verifier() -> None:
            if await everybody_writes.wait() == 0:
                os.kill(victim, signal.SIGKILL)

        texts = await asyncio.gather(
            *(text_of(d["url"], TOKENS, kill_verifier) for d in state["devices"])
        )

        for prompt, ids in texts:
            assert ids == TOY.greedy(prompt, TOKENS)
        assert "was ended by signal 9; starts again" in "\n".join(sled.lines) or await sled.until(
            "was ended by signal 9; starts again"
        )
        after = sled.state()
        assert after["verifiers"][0]["restarts"] == 1
        assert after["verifiers"][0]["pid"] != victim
        async with httpx.AsyncClient() as client:
            for device in after["devices"]:
                counters = await read_device(client, device["url"])
                assert counters is not None
                assert counters.output_tokens == TOKENS

        pids = [sled.process.pid, *sled.pids()]
        assert len(pids) == 4
        sled.process.send_signal(signal.SIGINT)
        assert await sled.ended() == 0
        assert [pid for pid in pids if alive(pid)] == []
        assert not (sled.state_dir / "up.json").exists()
        urls = [d["url"] for d in state["devices"]] + [state["verifiers"][0]["metrics_url"]]
        assert [url for url in urls if listening(url)] == []
        order = [" ".join(line.split()) for line in sled.lines]
        assert order.index("stopping; a second Ctrl-C stops at once") < min(
            order.index("D fake-0 | stopped"), order.index("D ngram-0 | stopped")
        )
        assert order[-1] == "V toy-0 | stopped"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie children to their parent")
async def test_children_do_not_outlive_a_killed_sled_up(up: Up) -> None:
    async with up(documents("NGram")) as sled:
        await sled.until("ready: ")
        ends = [exited(pid) for pid in sled.pids()]
        sled.process.kill()
        async with asyncio.timeout(STOP_SECONDS):
            await asyncio.gather(*ends)


async def test_top_shows_the_fleet_and_a_second_fleet_is_refused(
    up: Up, run_sled: Callable[..., contextlib.AbstractAsyncContextManager[Sled]]
) -> None:
    text = documents("Fake")
    async with up(text) as sled:
        await sled.until("ready: ")
        words = ("top", "--once", "--every", "0.1", "--state-dir", "state")
        async with run_sled(*words, text=text) as top:
            assert await top.ended() == 0
        assert any(line.startswith("toy-0") and "serving" in line for line in top.lines)
        assert any(line.startswith("fake-0") and "idle" in line for line in top.lines)
        second_words = ("up", "-f", "fleet.yaml", "--state-dir", "state")
        async with run_sled(*second_words, text=documents("Fake")) as second:
            assert await second.ended() == 1, second.lines
        refused = "sled: another sled up uses state; stop it, or name another --state-dir"
        assert second.lines == [refused]
        assert sled.state()["ready"]


async def test_a_verifier_that_cannot_start_is_told_and_nothing_is_left(
    up: Up, tmp_path: Path
) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF, but no more than that")
    text = documents("NGram").replace(
        "model: {name: toy}\n  engine: {kind: Fake}",
        f"model: {{name: toy, source: 'file://{tmp_path}/broken.gguf'}}\n"
        "  engine: {kind: LlamaCpp}",
    )
    async with up(text) as sled:
        assert await sled.ended() == 1
    last = "\n".join(sled.lines)
    assert "sled: verifier toy-0 refuses its configuration; it said last:" in last
    assert "broken.gguf" in last
    assert "Traceback" not in last
