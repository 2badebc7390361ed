"""Keeps one process running: start, watch, start again after a pause, give up in the end.

Must not know of other processes.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections import deque
from collections.abc import Callable

from sled_cli.errors import CliError
from sled_cli.up.probe import Probe
from sled_cli.up.process import Launcher, ProcessSpec, Running
from sled_cli.up.restarts import BAD_CONFIGURATION, RestartPolicy

LAST_LINES = 8
PROBE_SECONDS = 0.2
STEADY_PROBE_SECONDS = 2.0


class State(enum.StrEnum):
    """Where a process stands."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


class GaveUp(CliError):
    """A process dies again and again, or refuses its configuration."""


class Keeper:
    """One process and its successors.

    `run` returns after `stop`; `changed` is called at every change of `state`, `pid` or `restarts`.
    """

    def __init__(
        self,
        spec: ProcessSpec,
        launcher: Launcher,
        probe: Probe,
        *,
        policy: RestartPolicy,
        on_line: Callable[[ProcessSpec, str], None],
        changed: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec = spec
        self.state = State.WAITING
        self.pid: int | None = None
        self.restarts = 0
        self._launcher = launcher
        self._probe = probe
        self._policy = policy
        self._on_line = on_line
        self._changed = changed
        self._clock = clock
        self._process: Running | None = None
        self._stop = asyncio.Event()
        self._ready = asyncio.Event()
        self._ready_since: float | None = None
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)

    async def run(self) -> None:
        """Keep the process alive until `stop`.

        Raises:
            GaveUp: it died too often in a row, or its exit code says that its configuration is bad.
            CliError: it cannot be started at all.
        """
        deaths = 0
        while not self._stop.is_set():
            code = await self._live()
            if self._stop.is_set():
                break
            ready_seconds = 0.0 if self._ready_since is None else self._clock() - self._ready_since
            deaths = self._policy.deaths_in_a_row(deaths, ready_seconds)
            delay = self._policy.delay_seconds(deaths, code)
            if delay is None:
                self._enter(State.FAILED)
                raise GaveUp(self._obituary(deaths, code))
            self.restarts += 1
            self._enter(State.RESTARTING)
            self._note(f"{_ended(code)}; starts again in {delay:g} s")
            await self._pause(delay)
        self._enter(State.STOPPED)

    async def wait_ready(self) -> None:
        """Return once the process has been ready for the first time."""
        await self._ready.wait()

    def stop(self) -> None:
        """Ask the process to end and start no other; `run` returns once it is gone."""
        if not self._stop.is_set():
            self._stop.set()
            if self._process is not None:
                self._enter(State.STOPPING)
                self._process.terminate()

    def kill(self) -> None:
        """End the process at once and start no other."""
        self._stop.set()
        if self._process is not None:
            self._process.kill()

    async def _live(self) -> int:
        """One life of the process; returns its exit code."""
        self._process = await self._launcher.launch(self.spec)
        self.pid = self._process.pid
        self._ready_since = None
        self._enter(State.STARTING)
        if self._stop.is_set():  # asked to stop while it was being launched
            self._process.terminate()
        watch = asyncio.create_task(self._watch())
        try:
            async for line in self._process.output():
                self._last_lines.append(line)
                self._on_line(self.spec, line)
            return await self._process.wait()
        finally:
            watch.cancel()
            await asyncio.wait((watch,))
            self._process = None
            self.pid = None

    async def _watch(self) -> None:
        """Follow readiness; a process that lost it has not died and is left alone."""
        while True:
            ready = await self._probe.ready(self.spec.ready_url)
            if not self._stop.is_set():
                if ready and self.state is State.STARTING:
                    self._ready_since = self._clock()
                    self._ready.set()
                    self._enter(State.READY)
                elif not ready and self.state is State.READY:
                    self._ready_since = None
                    self._enter(State.STARTING)
            await asyncio.sleep(STEADY_PROBE_SECONDS if ready else PROBE_SECONDS)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return

    def _enter(self, state: State) -> None:
        self.state = state
        self._changed()

    def _note(self, sentence: str) -> None:
        self._on_line(self.spec, sentence)

    def _obituary(self, deaths: int, code: int) -> str:
        said = "\n".join(f"    {line}" for line in self._last_lines) or "    (nothing)"
        what = f"{_ended(code)}, {deaths} times in a row"
        if code == BAD_CONFIGURATION:
            what = "refuses its configuration"
        return f"{self.spec.role} {self.spec.name} {what}; it said last:\n{said}"


def _ended(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
