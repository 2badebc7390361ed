from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable

from .conftest import Sled, alive, documents

RunSled = Callable[..., contextlib.AbstractAsyncContextManager[Sled]]
WORDS = ("demo", "-f", "fleet.yaml", "--state-dir", "state", "--max-tokens", "12")


async def test_a_demonstration_ends_by_itself_with_its_verdict(run_sled: RunSled) -> None:
    words = (*WORDS, "--results", "out/demo.json")
    async with run_sled(*words, text=documents("Fake", "NGram")) as sled:
        assert await sled.ended(240) == 0
    assert sled.lines[-1] == "24 of 24 texts identical to the target's own"
    assert "token id by token id" in sled.lines[-2]
    assert "bit-invariant" in sled.lines[-2]
    record = json.loads((sled.folder / "out" / "demo.json").read_text())
    assert (record["texts"], record["texts_identical"], record["kind"]) == (24, 24, "measured")
    assert record["output_tokens"] == 24 * 12
    assert 0 < record["target_passes"] <= record["target_passes_alone"] == 24 * 12
    assert record["engine_steps"] > 0
    assert record["link_bytes_per_token"] > 0
    assert not (sled.state_dir / "up.json").exists()


async def test_keep_leaves_the_fleet_up_until_it_is_told_to_stop(run_sled: RunSled) -> None:
    async with run_sled(*WORDS, "--keep", text=documents("NGram")) as sled:
        line = await sled.until("curl http://127.0.0.1:", 240)
        assert "/v1/chat/completions" in line
        await sled.until("12 of 12 texts identical")
        curl = "".join(sled.lines[sled.lines.index(line.rstrip()) :][:2]).replace("\\", "")
        asked = await asyncio.create_subprocess_exec(
            "bash", "-c", curl, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        reply = json.loads((await asked.communicate())[0])
        assert reply["usage"]["completion_tokens"] == 48
        pids = sled.pids()
        sled.process.send_signal(signal.SIGINT)
        assert await sled.ended() == 0
        assert [pid for pid in pids if alive(pid)] == []


async def test_an_interrupted_demonstration_leaves_nothing(run_sled: RunSled) -> None:
    text = documents("NGram")
    words = (*WORDS[:-1], "2000")
    async with run_sled(*words, text=text) as sled:
        await sled.until("12 prompts to each of 1 devices")
        pids = sled.pids()
        os.kill(sled.process.pid, signal.SIGINT)
        assert await sled.ended() == 130
        assert [pid for pid in pids if alive(pid)] == []
    assert sled.lines[-1] == "interrupted"
