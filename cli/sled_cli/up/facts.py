"""Finds out what a plan needs to know about this machine. Decides nothing."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Iterable

from sled_cli.up.fleet_plan import LocalFacts


def local_facts(ports: Iterable[int]) -> LocalFacts:
    """Facts of this machine; of `ports`, those that another program listens on are busy."""
    return LocalFacts(
        cpu_count=_cpu_count(),
        machine=platform.machine(),
        busy_ports=frozenset(port for port in ports if _busy(port)),
    )


def _cpu_count() -> int:
    """Cores this process may use, which in a container are fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _busy(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do it: a port that only waits for old connections to time out is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
