"""A test run that is killed leaves no process, link or mount, and the next run removes its files and control groups."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from sled_testkit import node_machine
from sled_testkit.cluster_process import reap_abandoned, start_time

SCRIPT = """
import sys, time
from sled_testkit.node_cluster import NodeCluster
from sled_testkit.node_machine import Kind
with NodeCluster(print) as cluster:
    cluster.add([Kind("short-lived")])
    print("up", cluster.plane.folder, flush=True)
    time.sleep(600)
"""


@pytest.mark.usefixtures("provided")
def test_a_killed_run_leaves_nothing() -> None:
    run = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=subprocess.PIPE,
        text=True,
        env=_environment(),
    )
    assert run.stdout is not None
    lines = iter(run.stdout.readline, "")
    up = next((line for line in lines if line.startswith("up")), None)
    assert up is not None, "the cluster did not start"
    folder = Path(up.split()[1])
    pids = _inside(folder)
    assert len(pids) > 6
    link = Path(f"/sys/class/net/sled{run.pid}")
    assert link.exists()

    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    deadline = time.monotonic() + 30.0
    while (link.exists() or any(map(start_time, pids))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not link.exists()
    assert [pid for pid in pids if start_time(pid)] == []
    assert str(folder) not in Path("/proc/self/mounts").read_text()

    reap_abandoned()
    node_machine.remove_abandoned_control_groups()
    assert not folder.exists()
    assert list(Path("/sys/fs/cgroup").glob(f"**/{node_machine.control_group(run.pid)}")) == []


def _inside(folder: Path) -> list[int]:
    """Processes of the run: those that name its folder in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(folder) in (entry / "cmdline").read_text():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": tempfile.gettempdir()}
