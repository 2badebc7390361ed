"""A verifier as a process of its own, from a configuration file to its exit code."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_READY = re.compile(r"ready on (\S+), metrics on (\S+)")


@dataclass(slots=True)
class VerifierProcess:
    """A process that said it is ready."""

    process: asyncio.subprocess.Process
    address: str
    metrics_address: str
    log: Path

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def wait(self) -> int:
        return await self.process.wait()

    def rss_bytes(self) -> int:
        """Memory that the process holds now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def fake_config(**overrides: Any) -> dict[str, Any]:
    """A verifier.yaml with the fake engine on free loopback ports; nothing is measured at the start
    unless `overrides` say so, because some tests' steps take a minute.
    """
    overrides["batching"] = {"measureSeconds": 0, **overrides.get("batching", {})}
    settings: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "metricsListen": "127.0.0.1:0",
        "replica": "process-0",
        "model": {"name": "toy"},
        "engine": {"kind": "fake"},
        "drainSeconds": 5,
    }
    return {**settings, **overrides}


async def start(
    config: Mapping[str, Any], folder: Path, *arguments: str
) -> asyncio.subprocess.Process:
    """Start `sled-verifier` on this configuration; logs go to a file in `folder`, standard output
    to a pipe.
    """
    path = folder / "verifier.yaml"
    path.write_text(yaml.safe_dump(dict(config)))
    with (folder / "verifier.log").open("ab") as log:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "sled_verifier",
            "--config",
            str(path),
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )


@asynccontextmanager
async def verifier_process(
    config: Mapping[str, Any], folder: Path
) -> AsyncIterator[VerifierProcess]:
    """A ready verifier; killed at the end if it still runs.

    Raises:
        ChildProcessError: it ended before it was ready; the message holds its log.
    """
    process = await start(config, folder)
    log = folder / "verifier.log"
    try:
        if process.stdout is None:
            raise ChildProcessError("no standard output")
        line = (await process.stdout.readline()).decode()
        ready = _READY.search(line)
        if ready is None:
            raise ChildProcessError(f"not ready: {line!r} {log.read_text()}")
        yield VerifierProcess(process, ready[1], ready[2], log)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
