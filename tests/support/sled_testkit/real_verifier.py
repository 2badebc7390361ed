"""A verifier in a process of its own, on real weights, that a test may kill and start again on the same port."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

READY_SECONDS = 120.0


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class VerifierProcess:
    """`sled-verifier` with one GGUF model; its log goes to a file beside the configuration."""

    folder: Path
    model: Path
    engine: dict[str, Any] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    metrics_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0

    @property
    def address(self) -> str:
        """Where devices connect."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start and return at once; `wait_ready` says when it serves."""
        config = self.folder / f"verifier-{self.port}.yaml"
        engine = {"kind": "llamacpp", "threads": 2, "slots": 8, "contextTokens": 1024}
        config.write_text(
            yaml.safe_dump(
                {
                    "listen": self.address,
                    "metricsListen": f"127.0.0.1:{self.metrics_port}",
                    "replica": f"replica-{self.port}",
                    "model": {"name": "target", "path": str(self.model)},
                    "engine": {**engine, **self.engine},
                    "drainSeconds": 5.0,
                }
            )
        )
        with (self.folder / f"verifier-{self.port}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "sled_verifier", "--config", str(config)],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.starts += 1

    def wait_ready(self) -> None:
        """Wait until it serves.

        Raises:
            RuntimeError: it ended, or was not ready in time; the message holds the end of its log.
        """
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end:
            if self.process is None or self.process.poll() is not None:
                break
            try:
                if httpx.get(f"http://127.0.0.1:{self.metrics_port}/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        log = (self.folder / f"verifier-{self.port}.log").read_text()[-2000:]
        raise RuntimeError(f"the verifier did not become ready:\n{log}")

    def kill(self) -> None:
        """End it without any chance to say goodbye."""
        if self.process is not None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def stop(self) -> int:
        """Ask it to drain and end.

        Returns:
            Its exit status.
        """
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
