"""The held verifier as a process: starting it, its policy, its processor time, and what it counted."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from sled_bench.folders import engines_python, environment, hugging_face_folder
from sled_bench.models import BenchModel
from sled_bench.trace import DRAFT_TOKENS

TICKS = os.sysconf("SC_CLK_TCK")
END_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Case:
    """One backend with one target. `most_step_tokens`: larger steps are not measured on purpose."""

    name: str
    backend: str
    target: BenchModel
    most_step_tokens: int = 160
    measure_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class ServerPolicy:
    """See `held_server`."""

    trim: bool = True
    meet_deadlines: bool = True
    foretell: bool = True
    static: int = 0


OFF = ServerPolicy(trim=False, meet_deadlines=False, foretell=False)
"""Whatever is sent is verified, and nothing else."""


class HeldVerifier:
    """A ready verifier. After the end `places` are the tokens that it chose in one step of eight, and `margins` by how many
    logits it would have chosen another.
    """

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self._process = process
        self.address = address
        self.places = 0
        self.margins: list[float] = []

    async def use(self, policy: ServerPolicy) -> None:
        """Put a policy in force."""
        if self._process.stdin is None or self._process.stdout is None:
            raise ChildProcessError("no pipes")
        self._process.stdin.write(json.dumps(asdict(policy)).encode() + b"\n")
        await self._process.stdin.drain()
        await self._process.stdout.readline()

    def cpu_seconds(self) -> float:
        """Processor time that it has used, all its threads."""
        text = Path(f"/proc/{self._process.pid}/stat").read_text()
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


@asynccontextmanager
async def held_verifier(case: Case, trace_file: Path, slots: int) -> AsyncIterator[HeldVerifier]:
    """A verifier of this case with so many places.

    Raises:
        ChildProcessError: it ended before it was ready; the message holds the end of its log.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "verifier.yaml"
        config.write_text(yaml.safe_dump(_configuration(case, slots)))
        arguments = (str(config), str(trace_file), str(folder / "out"))
        with (folder / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                str(engines_python()),
                "-m",
                "sled_bench.held_server",
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=environment(os.cpu_count() or 1),
            )
        try:
            verifier = HeldVerifier(process, await _address(process, folder / "log"))
            yield verifier
            if process.stdin is not None:
                process.stdin.close()
            await asyncio.wait_for(process.wait(), END_SECONDS)
            counted = json.loads((folder / "out").read_text())
            verifier.places, verifier.margins = counted["places"], counted["margins"]
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _address(process: asyncio.subprocess.Process, log: Path) -> str:
    if process.stdout is None:
        raise ChildProcessError("no standard output")
    while not (line := (await process.stdout.readline()).decode()).startswith("ready on "):
        if not line:
            raise ChildProcessError(await asyncio.to_thread(_end_of, log))
    return line.split()[2]


def _end_of(log: Path) -> str:
    return log.read_text()[-3000:]


def _configuration(case: Case, slots: int) -> dict[str, Any]:
    engine: dict[str, Any] = {"kind": case.backend, "slots": slots, "contextTokens": 320}
    model: dict[str, Any] = {"name": "target", "path": str(case.target.gguf)}
    if case.backend != "llamacpp":
        model["vocabulary"] = model["path"]
        model["path"] = str(hugging_face_folder(case.target))
        engine[case.backend] = {"dtype": "bfloat16"}
    return {
        "listen": "127.0.0.1:0",
        "metricsListen": "127.0.0.1:0",
        "replica": "bench",
        "logLevel": "warning",
        "model": model,
        "engine": engine,
        "batching": {
            "stepTokens": max(64, slots * (DRAFT_TOKENS + 1)),
            "prefillChunkTokens": 192,
            "maxDraftTokens": DRAFT_TOKENS,
            "measureSeconds": case.measure_seconds,
        },
    }
