"""Starts programs again that have ended by themselves, as the service manager of a real control plane does.

Why: a controller-manager that loses its lease, on a machine that stood still for some seconds as
much as in a real outage, ends and counts on being started again. Must not start what a test stopped.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from sled_testkit.cluster_process import Child

LOOK_SECONDS = 1.0
"""Also the pause before a program that ends at once is started again."""


class Supervisor:
    """Looks after these programs from `start` to `stop`."""

    def __init__(self, children: Sequence[Child]) -> None:
        self._children = tuple(children)
        self._stopped = threading.Event()
        # the kernel ends a program with the thread that started it: this one lives until `stop`
        self._thread = threading.Thread(target=self._look, name="supervisor", daemon=True)
        self.revived: dict[str, int] = {child.name: 0 for child in children}

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more. What was started here ends with this call; the caller ends the others."""
        self._stopped.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stopped.wait(LOOK_SECONDS):
            for child in self._children:
                if child.pid is None:
                    child.start()
                    self.revived[child.name] += 1
