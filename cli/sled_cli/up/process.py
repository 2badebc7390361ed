"""Child processes: what is asked of them, as a Protocol, and the real ones.

Each child leads a process group of its own, so that a Ctrl-C in the terminal reaches this program
alone and it decides the order in which the others stop. Knows nothing of restarts.
"""

from __future__ import annotations

import asyncio
import enum
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, Protocol

from sled_cli.errors import CliError
from sled_cli.up.lines import LineSplitter

READ_BYTES = 65_536
SHARED_MACHINE: Final = {"OMP_WAIT_POLICY": "passive"}
"""Environment of processes that compete for the same cores: their compute threads sleep while they
wait for each other, instead of keeping a core busy that another process needs."""


class Role(enum.StrEnum):
    """What a process is; verifiers start first and stop last."""

    VERIFIER = "verifier"
    DEVICE = "device"


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A process to run: `python -m MODULE --config CONFIG`."""

    name: str
    role: Role
    module: str
    config: str
    ready_url: str
    """Answers 200 when the process serves."""
    stop_seconds: float
    """How long it may take to end after it was asked to."""


class Running(Protocol):
    """A process that was started."""

    pid: int

    def output(self) -> AsyncIterator[str]:
        """Its lines until it ends; to be read once."""
        ...

    async def wait(self) -> int:
        """Its exit code; negative = the signal that ended it."""
        ...

    def terminate(self) -> None:
        """Ask it to end."""
        ...

    def kill(self) -> None:
        """End it now."""
        ...


class Launcher(Protocol):
    """Starts processes; the fake for tests is `sled_cli.up.fake_process.FakeLauncher`."""

    async def launch(self, spec: ProcessSpec) -> Running:
        """Start it.

        Raises:
            CliError: the operating system refuses.
        """
        ...


class LocalLauncher:
    """Starts processes of this Python on this machine."""

    async def launch(self, spec: ProcessSpec) -> Running:
        """See `Launcher`; on Linux the child ends when this program is killed."""
        argv = (
            "-P",
            "-m",
            "sled_cli.up.leash",
            str(os.getpid()),
            spec.module,
            "--config",
            spec.config,
        )
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                env={**SHARED_MACHINE, **os.environ},
            )
        except OSError as error:
            raise CliError(f"{spec.role} {spec.name} could not be started: {error}") from error
        return _LocalProcess(process)


class _LocalProcess:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    async def output(self) -> AsyncIterator[str]:
        stream = self._process.stdout
        splitter = LineSplitter()
        while stream is not None and (data := await stream.read(READ_BYTES)):
            for line in splitter.feed(data):
                yield line
        for line in splitter.finish():
            yield line

    async def wait(self) -> int:
        return await self._process.wait()

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        """To the child's group; nothing once it was reaped, because its id may be another's."""
        if self._process.returncode is None:
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                return
