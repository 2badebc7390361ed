"""`sled` as people run it: a process, with fleets of fakes that need no model."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

START_SECONDS = 180
STOP_SECONDS = 60


def free_port(count: int) -> int:
    """The first of `count` free ports in a row, from a range that nobody is given by default: other
    runs of these tests look for ports on this machine too."""
    for _ in range(200):
        first = random.randrange(20_000, 30_000)
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            return first
    raise AssertionError("no free ports")


def documents(*devices: str, drain_seconds: int = 2, spec: str = "") -> str:
    """A fake SLEDServer, and an EdgeDrafter for each kind in `devices`."""
    text = f"""
apiVersion: sled.dev/v1alpha1
kind: SLEDServer
metadata:
  name: toy
  annotations: {{local.sled.dev/port: "{free_port(2)}"}}
spec:
  model: {{name: toy}}
  engine: {{kind: Fake}}
  drainSeconds: {drain_seconds}
  {spec}
"""
    for kind in devices:
        text += f"""---
apiVersion: sled.dev/v1alpha1
kind: EdgeDrafter
metadata:
  name: {kind.lower()}
  annotations: {{local.sled.dev/port: "{free_port(1)}"}}
spec:
  server: {{name: toy}}
  nodeSelector: {{edge: "true"}}
  drafts: [{{name: {kind.lower()}, kind: {kind}}}]
"""
    return text


class Sled:
    """One `sled` process and what it has printed."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.lines: list[str] = []

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.state_dir / "up.json").read_text("utf-8"))
        return found

    def pids(self) -> list[int]:
        state = self.state()
        return [p["pid"] for p in (*state["verifiers"], *state["devices"]) if p["pid"]]

    async def until(self, text: str, seconds: float = START_SECONDS) -> str:
        """Read on until a line has `text`."""
        assert self.process.stdout is not None
        async with asyncio.timeout(seconds):
            while line := (await self.process.stdout.readline()).decode():
                self.lines.append(line.rstrip())
                if text in line:
                    return line
        raise AssertionError(f"ended without '{text}':\n" + "\n".join(self.lines))

    async def ended(self, seconds: float = STOP_SECONDS) -> int:
        """Read the rest and return the exit code."""
        assert self.process.stdout is not None
        async with asyncio.timeout(seconds):
            rest = await self.process.stdout.read()
            self.lines += rest.decode().splitlines()
            return await self.process.wait()


RunSled = Callable[..., "contextlib.AbstractAsyncContextManager[Sled]"]


@pytest.fixture
def run_sled(tmp_path: Path) -> RunSled:
    """Run `sled WORDS`; `text` is put into fleet.yaml first. Both outputs come as one."""

    @contextlib.asynccontextmanager
    async def run(*words: str, text: str = "") -> AsyncIterator[Sled]:
        (tmp_path / "fleet.yaml").write_text(text)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "sled_cli",
            *words,
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "SLED_CACHE": str(tmp_path / "cache")},
            start_new_session=True,
        )
        sled = Sled(process, tmp_path)
        try:
            yield sled
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                try:
                    await sled.ended()
                except TimeoutError:
                    process.kill()
                    await process.wait()

    return run


@pytest.fixture
def up(run_sled: RunSled) -> Callable[..., contextlib.AbstractAsyncContextManager[Sled]]:
    """`sled up` over a text of documents."""
    return lambda text: run_sled("up", "-f", "fleet.yaml", "--state-dir", "state", text=text)


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    return not Path("/proc").is_dir()


def exited(pid: int) -> asyncio.Future[None]:
    """Done once the process has ended, whoever its parent is; Linux only."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    handle = os.pidfd_open(pid)

    def on_end() -> None:
        loop.remove_reader(handle)
        os.close(handle)
        done.set_result(None)

    loop.add_reader(handle, on_end)
    return done


def listening(url: str) -> bool:
    """Whether somebody accepts connections at `http://127.0.0.1:PORT`."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) == 0
