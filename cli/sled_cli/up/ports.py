"""Hands out TCP ports of this machine: those that documents name, then the next free ones.

Pure; which ports are taken is told by the caller.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sled_cli.errors import BadInput

VERIFIER_BASE: Final = 7000
DEVICE_BASE: Final = 8080
SEARCHED: Final = 400
"""Ports above a base that may be handed out."""


class Ports:
    """Ports not yet given to anybody.

    `busy` are taken by other programs. Named ports must be asked for before free ones.
    """

    def __init__(self, busy: Iterable[int]) -> None:
        self._busy = frozenset(busy)
        self._given: dict[int, str] = {}

    def named(self, port: int, where: str) -> int:
        """Take a port that a document names.

        Raises:
            BadInput: it is taken, or above 65535; the message begins with `where`.
        """
        if port > 65_535:
            raise BadInput(f"{where}: port {port} is above 65535")
        if port in self._given:
            raise BadInput(f"{where}: port {port} is given to {self._given[port]} already")
        if port in self._busy:
            raise BadInput(f"{where}: port {port} is taken by another program on this machine")
        self._given[port] = where
        return port

    def free(self, base: int, where: str) -> int:
        """Take the lowest free port from `base` on.

        Raises:
            BadInput: all `SEARCHED` ports are taken.
        """
        for port in range(base, base + SEARCHED):
            if port not in self._given and port not in self._busy:
                self._given[port] = where
                return port
        raise BadInput(f"{where}: no free port from {base} to {base + SEARCHED - 1}")
