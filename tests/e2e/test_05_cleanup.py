"""A test run that is killed leaves no process, link or mount, and the next run removes its files and control groups."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sled_testkit import node_machine
from sled_testkit.cluster_process import reap_abandoned
from sled_testkit.node_leftovers import Traces

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
    traces = Traces.of(run.pid, folder)
    assert len(traces.pids) > 6
    assert len(traces.running()) > len(traces.pids)

    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    assert traces.wait_ended() == []

    reap_abandoned()
    node_machine.remove_abandoned_control_groups()
    assert traces.kept() == []


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": tempfile.gettempdir()}
