"""vLLM's own OpenAI server as a process on loopback, and a relay in front of it that can be cut."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sled_testkit import cluster_launch
from sled_verifier.vllm.preload import environment_for_vllm

START_SECONDS = 480.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def vllm_server(model: Path, log: Path, *, context_tokens: int, name: str) -> Iterator[str]:
    """A ready server in fp32; yields its address, host:port.

    Raises:
        ChildProcessError: it ended, or was not ready in time; the message holds the end of its log.
    """
    port = free_port()
    own = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    environment = environment_for_vllm(os.environ, 1, Path(sys.prefix) / "lib") or dict(os.environ)
    command = [sys.executable, cluster_launch.__file__, str(os.getpid())]
    command += [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", name, "--dtype", "float32", "--enforce-eager"]
    command += ["--max-model-len", str(context_tokens)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as out:
        # A group of its own: the server starts its engine as another process.
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env=environment | own, start_new_session=True
        )
    try:
        _wait_until_ready(process, port, log)
        yield f"127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with suppress(OSError):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5) as answer:
                json.load(answer)
            return
        time.sleep(0.5)
    raise ChildProcessError(f"vLLM's server is not ready:\n{log.read_text()[-3000:]}")


class Relay:
    """A port that passes bytes on to `target`; `cut` ends all connections and stops listening, `mend` listens again
    on the same port. Without `flowing` connections stay open and nothing passes.
    """

    def __init__(self, target: str) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._listen = free_port()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.flowing = asyncio.Event()
        self.flowing.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listen}"

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._listen)

    async def cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(1 << 16):
                await self.flowing.wait()
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()
