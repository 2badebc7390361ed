"""One node of an end-to-end test: its own kernel namespaces, disk, kubelet, containerd and kube-proxy.

Why: kubelets, container starts, probes, restarts and lost nodes behave like Kubernetes only with
the real programs. `pull_plug` ends the node's first process and the kernel ends everything else in
it, as a power cut would; `start` boots it again from its disk. Must not leave a trace outside its
folder and its control groups, which `remove_control_groups` takes away.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sled_testkit import cluster_tools, node_base, node_config, node_seed
from sled_testkit.cluster_commands import Layout
from sled_testkit.cluster_process import Child, ProcessFailed
from sled_testkit.node_network import CommandFailed, Network, run

CGROUP_PREFIX = "sled-nodes-"
_CGROUPS = Path("/sys/fs/cgroup")
_INIT = Path(__file__).with_name("node_init.py")
_BOOT_SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class Kind:
    """What a node looks like from outside."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    memory_mib: int = 8192


class Machine:
    """A node; `index` decides its addresses and is unique in its cluster."""

    def __init__(
        self, kind: Kind, index: int, layout: Layout, network: Network, seed: Path
    ) -> None:
        self.kind = kind
        self.index = index
        self.address = network.address(index)
        self.disk = layout.folder / "disks" / kind.name
        self._layout = layout
        self._network = network
        self._seed = seed
        self._child: Child | None = None
        self._pid = 0

    @property
    def name(self) -> str:
        """Name of the Kubernetes node."""
        return self.kind.name

    def start(self, others: Sequence[int]) -> None:
        """Boot; returns when containerd answers. `others` are the indexes of all other nodes."""
        spec = self._write_disk()
        flags = ["--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]
        command = ["/usr/bin/unshare", *flags, sys.executable, "-S", "-I", str(_INIT), str(spec)]
        self._child = Child(f"node-{self.name}", command, self._layout.folder)
        self._child.start()
        self._pid = self._first_process()
        self._network.plug_in(self._pid, self.index, others)
        self._wait_for_containerd()

    def pull_plug(self) -> None:
        """End the node and everything in it at once."""
        if self._child is not None:
            self._child.kill()
        deadline = time.monotonic() + 30.0
        while Path(f"/proc/{self._pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)

    def check(self) -> None:
        """Raise ProcessFailed when the node has ended by itself."""
        if self._child is not None:
            self._child.check()

    def inside(self, *command: str) -> list[str]:
        """The command line that runs a program on the node, with its network and its files."""
        target = f"/proc/{self._pid}/ns"
        parts = [f"--{kind}={target}/{file}" for kind, file in (("net", "net"), ("mount", "mnt"))]
        return ["nsenter", *parts, *command]

    def beside(self, *command: str) -> list[str]:
        """The command line that runs a program of the test on the node's network."""
        return ["nsenter", f"--net=/proc/{self._pid}/ns/net", *command]

    def cut_off(self) -> None:
        """Pull the network cable."""
        self._network.cut(self.index)

    def reconnect(self) -> None:
        """Plug it in again."""
        self._network.heal(self.index)

    def kill_container(self, identity: str) -> None:
        """SIGKILL the first process of a container."""
        run(self._ctr("tasks", "kill", "--signal", "SIGKILL", identity))

    def log_tail(self, daemon: str, lines: int = 20) -> str:
        """The end of a daemon's log."""
        path = self._layout.folder / f"{self.name}-{daemon}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])

    def _ctr(self, *arguments: str) -> list[str]:
        socket = ["--address", node_config.CONTAINERD_SOCKET, "--namespace", "k8s.io"]
        return self.inside("ctr", *socket, *arguments)

    def _write_disk(self) -> Path:
        disk, layout = self.disk, self._layout
        (disk / "cni").mkdir(parents=True, exist_ok=True)
        if not (disk / "containerd").exists():
            node_seed.plant(self._seed, disk / "containerd")
        cgroup = f"{control_group(os.getpid())}/{self.name}"
        make_control_groups(cgroup)
        network = json.dumps(node_config.pod_network(self.index))
        (disk / "cni" / "10-pods.conflist").write_text(network)
        (disk / "containerd.toml").write_text(node_config.containerd(disk, node_base.REFERENCE))
        (disk / "kubelet.yaml").write_text(
            node_config.kubelet(f"/{cgroup}", layout.authority, disk)
        )
        kubeconfig = layout.admit(
            f"kubelet-{self.name}", f"system:node:{self.name}", ["system:nodes"]
        )
        (disk / "kubelet.kubeconfig").write_text(kubeconfig.read_text())
        proxy = layout.admit(f"kube-proxy-{self.name}", "system:kube-proxy")
        kubelet, kube_proxy = (cluster_tools.find(name) for name in ("kubelet", "kube-proxy"))
        spec = {
            "name": self.name,
            "disk": str(disk),
            "logs": str(layout.folder),
            "memory_mib": self.kind.memory_mib,
            "sysctls": {"/proc/sys/net/ipv4/ip_forward": "1"},
            "setup": [node_config.masquerade(self.index)],
            "daemons": {
                "containerd": ["/usr/bin/containerd", "--config", str(disk / "containerd.toml")],
                "kubelet": node_config.kubelet_command(
                    kubelet, self.name, self.address, disk, self.kind.labels
                ),
                "kube-proxy": node_config.kube_proxy_command(kube_proxy, self.name, proxy),
            },
        }
        path = disk / "spec.json"
        path.write_text(json.dumps(spec))
        return path

    def _first_process(self) -> int:
        """The node's process 1 by its number on this machine."""
        deadline = time.monotonic() + _BOOT_SECONDS
        own = os.readlink("/proc/self/ns/net")
        while time.monotonic() < deadline:
            self.check()
            parent = self._child.pid if self._child else None
            children = Path(f"/proc/{parent}/task/{parent}/children")
            with contextlib.suppress(OSError):
                found = children.read_text().split()
                if found and os.readlink(f"/proc/{found[0]}/ns/net") != own:
                    return int(found[0])
            time.sleep(0.02)
        raise ProcessFailed(f"node {self.name} did not start")

    def _wait_for_containerd(self) -> None:
        deadline = time.monotonic() + _BOOT_SECONDS
        while True:
            self.check()
            try:
                run(self._ctr("version"))
                return
            except CommandFailed as refused:
                if time.monotonic() > deadline:
                    tail = self.log_tail("containerd")
                    raise ProcessFailed(
                        f"containerd of {self.name}: {refused}\n{tail}"
                    ) from refused
            time.sleep(0.1)


def control_group(owner: int) -> str:
    """Name of the control group of all nodes of one test process."""
    return f"{CGROUP_PREFIX}{owner}"


def make_control_groups(path: str) -> None:
    """Make a group in every hierarchy, ready for processes."""
    for root in _hierarchies():
        group = root
        for part in path.split("/"):
            group /= part
            group.mkdir(exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):
                if (group / name).exists() and not (group / name).read_text().strip():
                    (group / name).write_text((group.parent / name).read_text())


def remove_control_groups(owner: int) -> None:
    """Take away the groups of one test process; those with a process in them stay."""
    for root in _hierarchies():
        top = root / control_group(owner)
        for folder, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def remove_abandoned_control_groups() -> None:
    """Take away what test processes that are gone have left."""
    for root in _hierarchies():
        for group in root.glob(f"{CGROUP_PREFIX}*"):
            owner = group.name.removeprefix(CGROUP_PREFIX)
            if owner.isdigit() and not Path(f"/proc/{owner}").exists():
                remove_control_groups(int(owner))


def _hierarchies() -> list[Path]:
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS]
    return [each for each in sorted(_CGROUPS.iterdir()) if each.is_dir() and not each.is_symlink()]
