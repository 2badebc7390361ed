"""Processes that exist in memory only, for tests of what starts and restarts real ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from sled_cli.up.process import ProcessSpec, Running

KILLED = -9


class FakeProcess:
    """A process that ends when a test, `terminate` or `kill` says so. Implements `Running`."""

    def __init__(self, spec: ProcessSpec, pid: int, *, stubborn: bool = False) -> None:
        self.spec = spec
        self.pid = pid
        self.signals: list[str] = []
        self._stubborn = stubborn
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        self._code: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def say(self, line: str) -> None:
        """Print a line."""
        self._lines.put_nowait(line)

    def exit(self, code: int) -> None:
        """End by itself."""
        if not self._code.done():
            self._code.set_result(code)
            self._lines.put_nowait(None)

    async def output(self) -> AsyncIterator[str]:
        """See `Running`."""
        while (line := await self._lines.get()) is not None:
            yield line

    async def wait(self) -> int:
        """See `Running`."""
        return await self._code

    def terminate(self) -> None:
        """See `Running`; a stubborn process ignores it."""
        self.signals.append("terminate")
        if not self._stubborn:
            self.exit(0)

    def kill(self) -> None:
        """See `Running`."""
        self.signals.append("kill")
        self.exit(KILLED)


class FakeLauncher:
    """Starts `FakeProcess`es and remembers them. Implements `Launcher`."""

    def __init__(self, *, stubborn: frozenset[str] = frozenset()) -> None:
        self.started: list[FakeProcess] = []
        self._stubborn = stubborn
        self._launched = asyncio.Condition()

    async def launch(self, spec: ProcessSpec) -> Running:
        """See `Launcher`."""
        process = FakeProcess(spec, 1000 + len(self.started), stubborn=spec.name in self._stubborn)
        async with self._launched:
            self.started.append(process)
            self._launched.notify_all()
        return process

    async def launched(self, count: int) -> FakeProcess:
        """Wait for the `count`-th start and return that process."""
        async with self._launched:
            await self._launched.wait_for(lambda: len(self.started) >= count)
        return self.started[count - 1]


class FakeProbe:
    """Every address is ready, unless a test puts it into `away`. Implements `Probe`."""

    def __init__(self) -> None:
        self.away: set[str] = set()

    async def ready(self, url: str) -> bool:
        """See `Probe`."""
        return url not in self.away
