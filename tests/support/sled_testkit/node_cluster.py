"""A Kubernetes cluster of real nodes on one machine, for tests: control plane, network, nodes, DNS, images.

Why: from `helm install` to text on a device nothing is a stand-in. The control plane is `cluster.ControlPlane`, listening where the
nodes reach it. Whatever ends the test process, the kernel ends every node with it. Must not be used for anything but tests.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from sled_testkit import node_images, node_seed
from sled_testkit.cluster import ControlPlane
from sled_testkit.cluster_process import reap_abandoned
from sled_testkit.cluster_tools import Progress
from sled_testkit.node_machine import (
    Kind,
    Machine,
    remove_abandoned_control_groups,
    remove_control_groups,
)
from sled_testkit.node_network import Network

_DNS = Path(__file__).with_name("node_dns.yaml")
READY_SECONDS = 180.0
MAX_NODES = 8


class NodeCluster:
    """A control plane and its machines, as a context manager."""

    def __init__(self, progress: Progress) -> None:
        reap_abandoned()
        remove_abandoned_control_groups()
        self._progress = progress
        self._seed = Path()
        self.network = Network()
        self.plane = ControlPlane(progress, address=self.network.gateway)
        self.machines: dict[str, Machine] = {}
        self._ended = False

    def __enter__(self) -> NodeCluster:
        try:
            archives = node_images.archives(self._progress)
            self._seed = node_seed.store(archives, self.plane.folder, self._progress)
            self.network.start(self.plane.folder)
            self.plane.__enter__()
            self.plane.start_workloads()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end(kind, error, trace)

    def end(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        """Take everything away, once."""
        if self._ended:
            return
        self._ended = True
        for machine in self.machines.values():
            machine.pull_plug()
        self.plane.__exit__(kind, error, trace)
        self.network.stop()
        remove_control_groups(os.getpid())

    def add(self, kinds: Sequence[Kind]) -> None:
        """Boot machines with the images on their disks, and wait until they are Ready."""
        first = len(self.machines) + 1
        added = [
            Machine(kind, index, self.plane.layout, self.network, self._seed)
            for index, kind in enumerate(kinds, first)
        ]
        self.machines |= {machine.name: machine for machine in added}
        for machine in added:  # in this thread: a node ends with the thread that started it
            self._start(machine)
        self.wait_ready(machine.name for machine in added)

    def boot(self, name: str) -> None:
        """Start a machine again whose plug was pulled."""
        self._start(self.machines[name])

    def wait_ready(self, names: Iterable[str]) -> None:
        """Wait until these nodes are Ready."""
        for name in names:
            self.plane.api.wait("/api/v1/nodes", name, is_ready, timeout_seconds=READY_SECONDS)

    def start_dns(self) -> None:
        """Run CoreDNS on every node."""
        self.plane.kubectl("apply", "--server-side", "-f", str(_DNS))

    def check(self) -> None:
        """Raise ProcessFailed when a part of the cluster has ended by itself."""
        self.plane.check()

    def _start(self, machine: Machine) -> None:
        machine.start([index for index in range(1, MAX_NODES + 1) if index != machine.index])


def is_ready(node: dict[str, Any] | None) -> bool:
    """Whether a Node reports Ready."""
    conditions = (node or {}).get("status", {}).get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
