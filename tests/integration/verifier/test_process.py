"""`sled-verifier` as an operating system sees it: exit codes, signals, one line when ready, sudden
death.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sled_testkit.verifier_device import (
    Device,
    GreedyText,
    RefusedByVerifier,
    draft_frame,
    greeted,
)
from sled_testkit.verifier_faults import until
from sled_testkit.verifier_process import VerifierProcess, fake_config, start, verifier_process
from sled_verifier.engine.fake import ToyModel

TARGET = ToyModel()
SLOW = {"kind": "fake", "fake": {"stepSeconds": 1.0}}


async def run(config: dict[str, Any], folder: Path, *arguments: str) -> tuple[int | None, str, str]:
    """(exit code, standard output, log) of a process that ends by itself."""
    process = await start(config, folder, *arguments)
    output, _ = await process.communicate()
    return process.returncode, output.decode(), (folder / "verifier.log").read_text()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"colour": 1}, "colour is not a setting"),
        ({"auth": {"tokensFile": "/does/not/exist"}}, "auth.tokensFile: "),
        ({"tls": {"certFile": "/no/cert", "keyFile": "/no/key"}}, "tls: "),
    ],
)
async def test_bad_configuration_stops_the_process(
    change: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    code, output, log = await run(fake_config(**change), tmp_path)
    assert (code, output) == (2, "")
    assert log.startswith("sled-verifier: ")
    assert sentence in log
    assert "Traceback" not in log


async def test_a_model_that_cannot_be_loaded_stops_the_process(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"not a model")
    config = fake_config(
        model={"name": "broken", "path": str(broken)}, engine={"kind": "llamacpp", "threads": 1}
    )
    code, _, log = await run(config, tmp_path)
    assert code == 2
    assert "engine: " in log
    assert "Traceback" not in log


async def test_a_port_that_is_taken_stops_the_process(tmp_path: Path) -> None:
    async with verifier_process(fake_config(), tmp_path) as first:
        for key, address in (("listen", first.address), ("metricsListen", first.metrics_address)):
            folder = tmp_path / key
            folder.mkdir()
            code, _, log = await run(fake_config(**{key: address}), folder)
            assert code == 2
            assert f"{key}: cannot listen on {address}" in log


def test_check_and_help(tmp_path: Path) -> None:
    path = tmp_path / "v.yaml"
    path.write_text("model: {name: toy}\nengine: {kind: fake}\n")
    command = [sys.executable, "-m", "sled_verifier"]
    checked = subprocess.run(
        [*command, "--config", path, "--check"], capture_output=True, text=True
    )
    assert (checked.returncode, checked.stdout) == (0, f"{path}: usable\n")
    path.write_text("model: {}\n")
    checked = subprocess.run(
        [*command, "--config", path, "--check"], capture_output=True, text=True
    )
    assert checked.returncode == 2
    assert "model.name is missing" in checked.stderr
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
    assert "--config" in shown.stdout
    assert "SIGTERM" in shown.stdout


async def send_and_see_it_running(device: Device) -> None:
    """A signal overtakes a frame that is still on its way; a second draft is refused once the first has arrived."""
    for _ in range(2):
        await device.send(draft_frame(1, [1], (), [2, 3]))
    with pytest.raises(RefusedByVerifier, match="ROUND_IN_FLIGHT"):
        await device.answer(1)


async def test_sigterm_answers_rounds_in_flight_and_exits_with_zero(tmp_path: Path) -> None:
    async with verifier_process(fake_config(engine=SLOW), tmp_path) as verifier:
        async with greeted(verifier.address) as device:
            await device.open(1, [1])
            await send_and_see_it_running(device)
            verifier.signal(signal.SIGTERM)
            assert (await device.answer(0)).drain.within_ms > 0
            verdict = (await device.answer(1)).verdict
            assert verdict.next_token == TARGET.greedy([1], 1)[0]
            with pytest.raises(ConnectionError):
                await device.answer(0)
        assert await verifier.wait() == 0
        messages = [json.loads(line)["message"] for line in verifier.log.read_text().splitlines()]
        assert messages[-2:] == ["draining", "stopped"]


async def test_a_second_signal_exits_at_once(tmp_path: Path) -> None:
    """Its drain could take five minutes, because a device never reads to the end."""
    engine = {"kind": "fake", "fake": {"stepSeconds": 60}}
    config = fake_config(engine=engine, drainSeconds=300)
    async with verifier_process(config, tmp_path) as verifier, greeted(verifier.address) as device:
        await device.open(1, [1])
        await send_and_see_it_running(device)
        verifier.signal(signal.SIGTERM)
        await device.answer(0)
        verifier.signal(signal.SIGINT)
        assert await verifier.wait() == 128 + signal.SIGINT


async def test_killed_and_restarted_in_mid_sequence(tmp_path: Path) -> None:
    """SIGKILL at random points of eight sequences, again and again; every text is the target's
    own.
    """
    texts = [GreedyText(TARGET, [n, n + 1, n + 2], seed=n) for n in range(8)]
    kills = 0

    async def generate(verifier: VerifierProcess, number: int) -> None:
        try:
            async with greeted(verifier.address, f"device-{number}") as device:
                text = texts[number]
                if len(text.output) < 60:
                    await text.run(device, 1, 60, number + 1)
        except (ConnectionError, OSError):
            return

    def written() -> int:
        return sum(len(text.output) for text in texts)

    engine = {"kind": "fake", "fake": {"stepSeconds": 0.01}}
    while any(len(text.output) < 60 for text in texts):
        goal = written() + 120
        async with verifier_process(fake_config(engine=engine), tmp_path) as verifier:
            running = asyncio.gather(*(generate(verifier, n) for n in range(8)))
            await until(lambda goal=goal, running=running: written() >= goal or running.done())  # type: ignore[misc]
            verifier.signal(signal.SIGKILL)
            kills += 1
            await verifier.wait()
            await running
    assert kills >= 3
    for text in texts:
        assert text.output[:60] == TARGET.greedy(text.prompt, 60)
