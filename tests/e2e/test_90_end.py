"""The nodes of the scenarios go away when these are over, and nothing of them stays for the tests that follow."""

from __future__ import annotations

import os

from sled_testkit.e2e_site import Site
from sled_testkit.node_leftovers import Traces


def test_the_nodes_leave_nothing(bare: Site) -> None:
    traces = Traces.of(os.getpid(), bare.cluster.plane.folder)
    assert len(traces.running()) > len(traces.pids) > 6
    bare.cluster.end()
    assert traces.wait_ended() == []
    assert traces.kept() == []
