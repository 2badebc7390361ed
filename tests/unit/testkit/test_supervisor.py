"""What the tests' control plane does when a part of it ends by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sled_testkit import cluster_supervisor
from sled_testkit.cluster_process import Child
from sled_testkit.cluster_supervisor import Supervisor


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_ends_is_started_again_until_it_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_supervisor, "LOOK_SECONDS", 0.01)
    short = Child("short", ["/bin/sleep", "0.05"], tmp_path)
    steady = Child("steady", ["/bin/sleep", "600"], tmp_path)
    supervisor = Supervisor([short, steady])
    steady.start()
    pid = steady.pid
    supervisor.start()
    try:
        wait_for(lambda: supervisor.revived["short"] >= 2)
        assert (steady.pid, supervisor.revived["steady"]) == (pid, 0)
        supervisor.stop()
        wait_for(lambda: short.pid is None)
        counted = supervisor.revived["short"]
        time.sleep(0.1)
        assert (short.pid, supervisor.revived["short"]) == (None, counted)
    finally:
        short.stop()
        steady.stop()
