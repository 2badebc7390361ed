"""The real operator as a process against a test control plane, with the chart's own rights.

Why: what the operator may do, what it writes and what it costs are only true of the real process
with a service account's token. Must not grant it anything: the caller installs the chart.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from sled_testkit.cluster import ControlPlane
from sled_testkit.cluster_audit import service_account
from sled_testkit.cluster_process import Child, ProcessFailed

ROOT = Path(__file__).resolve().parents[3]
START_TIMEOUT_SECONDS = 240.0
_PACKAGES = ("operator", "speculation", "protocol")


class OperatorProcess:
    """One replica: `start`, `stop` (SIGTERM) and `kill` may be repeated."""

    def __init__(
        self,
        plane: ControlPlane,
        *,
        namespace: str = "sled-system",
        account: str = "sled-operator",
        identity: str = "operator-0",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.user = service_account(namespace, account)
        self.port = _free_port()
        kubeconfig = plane.service_account_kubeconfig(namespace, account)
        given = {
            "KUBECONFIG": str(kubeconfig),
            "PYTHONPATH": os.pathsep.join(str(ROOT / package) for package in _PACKAGES),
            "SLED_IDENTITY": identity,
            "SLED_LEASE_NAMESPACE": namespace,
            "SLED_HTTP_PORT": str(self.port),
            **(settings or {}),
        }
        environment = {name: value for name, value in os.environ.items() if name != "CI"}
        command = [sys.executable, "-m", "sled_operator"]
        self._child = Child(identity, command, plane.folder, {**environment, **given})

    @property
    def log(self) -> Path:
        """Its log over all starts, one JSON object a line."""
        return self._child.log

    @property
    def pid(self) -> int | None:
        """Process number while it runs."""
        return self._child.pid

    def start(self, *, wait: bool = True) -> None:
        """Start it, and wait until it leads."""
        self._child.start()
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while wait and self.metric("sled_operator_leading") != 1.0:
            self._child.check()
            if time.monotonic() > deadline:
                raise ProcessFailed(f"the operator does not lead:\n{self._child.log_tail()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """SIGTERM; it gives the lease back."""
        self._child.stop(grace_seconds=20.0)

    def kill(self) -> None:
        """SIGKILL, as a node that loses power."""
        self._child.kill()

    def check(self) -> None:
        """Raise ProcessFailed when it has ended by itself."""
        self._child.check()

    def metrics(self) -> str:
        """Its /metrics page; empty while it does not answer."""
        try:
            address = f"http://127.0.0.1:{self.port}/metrics"
            return httpx.get(address, timeout=5.0, trust_env=False).text
        except httpx.TransportError:
            return ""

    def metric(self, name: str) -> float | None:
        """One metric without labels."""
        found = re.search(rf"^{name} (\S+)$", self.metrics(), re.MULTILINE)
        return float(found[1]) if found else None

    def memory_bytes(self) -> int:
        """Resident memory now (Linux)."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"^VmRSS:\s+(\d+) kB", text, re.MULTILINE)
        return int(found[1]) * 1024 if found else 0

    def cpu_seconds(self) -> float:
        """Processor time since its start (Linux)."""
        return self._child.cpu_seconds()


@contextmanager
def working_operator(plane: ControlPlane) -> Iterator[OperatorProcess]:
    """An operator that runs to the end and asks for nothing that it may not do."""
    process = OperatorProcess(plane)
    process.start()
    yield process
    process.check()
    process.stop()
    assert plane.audit.forbidden(process.user) == []


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
