"""Engines that stall on command, and waiting for what another task will do; for tests of the
verifier.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

from sled_verifier.engine.base import StepItem
from sled_verifier.engine.fake import FakeEngine
from sled_verifier.server import VerifierServer


class GatedEngine(FakeEngine):
    """Holds every step while `gate` is clear; `entered` is set when a step begins. Open at
    first.
    """

    def __init__(self, **options: Any) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        super().__init__(before_step=self._hold, **options)

    def shut(self) -> None:
        """The next step will be held."""
        self.entered.clear()
        self.gate.clear()

    def _hold(self, items: Sequence[StepItem]) -> None:
        self.entered.set()
        # Longer than any test may run: a forgotten gate fails by the test's own time limit.
        self.gate.wait(timeout=600)


async def until(condition: Callable[[], bool]) -> None:
    """Wait, within the test's time limit, for something that another task or thread will do."""
    while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
        await asyncio.sleep(0.001)


def nothing_held(server: VerifierServer) -> bool:
    """True when no device holds anything of the server; becomes true at the latest when the running
    step ends.
    """
    stats = server.backend.stats()
    return (
        server.service.open_streams == 0
        and server.service.devices.connected == 0
        and stats.load.active_sequences == 0
        and stats.load.queue_depth == 0
        and stats.resident_sequences == 0
        and stats.rounds_running == 0
    )
