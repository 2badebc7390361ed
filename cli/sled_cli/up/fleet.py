"""All processes of a plan together: the order in which they start and stop, and what ends them all.

Must not know what the processes do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Self

from sled_cli.errors import CliError
from sled_cli.up.keeper import Keeper, State
from sled_cli.up.probe import Probe
from sled_cli.up.process import Launcher, ProcessSpec, Role
from sled_cli.up.restarts import RestartPolicy

READY_SECONDS = 600.0
"""Longest time from the start of a process until it serves; loading a large model takes minutes."""


def _ignore() -> None:
    return


class Fleet:
    """Verifiers and devices as one thing that starts, serves and stops.

    Use as `async with`: leaving the block stops every process, whatever happened in it.
    """

    def __init__(
        self,
        specs: Iterable[ProcessSpec],
        launcher: Launcher,
        probe: Probe,
        *,
        on_line: Callable[[ProcessSpec, str], None],
        on_change: Callable[[], None] = _ignore,
        policy: RestartPolicy | None = None,
        ready_seconds: float = READY_SECONDS,
    ) -> None:
        self._ready_seconds = ready_seconds
        self._tasks: dict[Keeper, asyncio.Task[None]] = {}
        self._hurried = False
        self.keepers = tuple(
            Keeper(
                spec,
                launcher,
                probe,
                policy=policy or RestartPolicy(),
                on_line=on_line,
                changed=on_change,
            )
            for spec in specs
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    def ready(self) -> bool:
        """True while every process serves."""
        return all(keeper.state is State.READY for keeper in self.keepers)

    async def start(self) -> None:
        """Start verifiers, then devices; return when all of them serve.

        Raises:
            CliError: a process gave up, or one did not serve in time.
        """
        for role in (Role.VERIFIER, Role.DEVICE):
            keepers = self._of(role)
            for keeper in keepers:
                self._tasks[keeper] = asyncio.create_task(keeper.run(), name=keeper.spec.name)
            if keepers:
                await self.until(self._all_ready(keepers))

    async def until(self, awaitable: Awaitable[None]) -> None:
        """Wait for `awaitable`, which is cancelled when a process gives up first.

        Raises:
            CliError: as the process that gave up says, or what `awaitable` raises.
        """
        waiter = asyncio.ensure_future(awaitable)
        try:
            await asyncio.wait({waiter, *self._tasks.values()}, return_when=asyncio.FIRST_COMPLETED)
            for task in self._tasks.values():
                if task.done() and not waiter.done():
                    task.result()
                    raise CliError(f"{task.get_name()} was stopped")
            await waiter
        finally:
            waiter.cancel()

    async def stop(self) -> None:
        """End every process: devices first, so that verifiers have nothing left to drain.

        Those that take longer than they may are killed. Never raises for how a process ended.
        """
        for role in (Role.DEVICE, Role.VERIFIER):
            await self._stop(self._of(role))
        for task in self._tasks.values():
            if not task.cancelled():
                task.exception()  # was raised by `until` where it mattered
        self._tasks.clear()

    def hurry(self) -> None:
        """Stop waiting for anybody: kill all processes now."""
        self._hurried = True
        for keeper in self.keepers:
            keeper.kill()

    def _of(self, role: Role) -> list[Keeper]:
        return [keeper for keeper in self.keepers if keeper.spec.role is role]

    async def _all_ready(self, keepers: Sequence[Keeper]) -> None:
        try:
            async with asyncio.timeout(self._ready_seconds):
                for keeper in keepers:
                    await keeper.wait_ready()
        except TimeoutError as error:
            late = ", ".join(k.spec.name for k in keepers if k.state is not State.READY)
            raise CliError(f"not ready after {self._ready_seconds:g} seconds: {late}") from error

    async def _stop(self, keepers: Sequence[Keeper]) -> None:
        tasks = [self._tasks[keeper] for keeper in keepers if keeper in self._tasks]
        if not tasks:
            return
        for keeper in keepers:
            keeper.kill() if self._hurried else keeper.stop()
        seconds = max(keeper.spec.stop_seconds for keeper in keepers)
        _, late = await asyncio.wait(tasks, timeout=seconds)
        if late:
            for keeper in keepers:
                keeper.kill()
            await asyncio.wait(late)
