"""The cable between the nodes of an end-to-end test: one bridge in a network namespace of its own.

Why: every node has its own network, one end of a virtual cable in it and the other in the bridge;
the test machine itself has one more, so that the API server and the nodes reach each other. Pulling
a cable is `cut`. The namespaces are not named: the kernel takes bridge and cables away when the
process that holds them ends. Must not touch the machine's own interfaces, routes or tables.
"""

from __future__ import annotations

import ipaddress
import os
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from sled_testkit.cluster_process import Child
from sled_testkit.node_config import pod_range

_FIRST_NODE = 10
_RANGE = ipaddress.ip_network("198.18.0.0/16")
"""Set aside for benchmarks (RFC 2544): nobody's network is called by accident."""


class CommandFailed(RuntimeError):
    """A system command refused; the message is what it printed."""


def run(command: Sequence[str], timeout_seconds: float = 120.0, stdin: str | None = None) -> str:
    """Run a command and return its output.

    Raises:
        CommandFailed: it ended with an error.
    """
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_seconds,
    )
    if done.returncode != 0:
        raise CommandFailed(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


class Network:
    """A bridge; the test machine is at `gateway`, node N at `address(N)`."""

    def __init__(self) -> None:
        self._subnet = _free_subnet()
        self._link = f"sled{os.getpid()}"[:15]
        self._hub: Child | None = None
        self.gateway = str(self._subnet[1])

    def start(self, folder: Path) -> None:
        """Make the bridge and this machine's cable."""
        self._hub = Child("hub", ["/usr/bin/unshare", "--net", "sleep", "infinity"], folder)
        self._hub.start()
        self._wait_for_namespace()
        self._in_hub("ip", "link", "add", "hub", "type", "bridge", "forward_delay", "0")
        self._in_hub("ip", "link", "set", "hub", "up")
        peer = ["peer", "name", "machine", "netns", str(self._hub_pid)]
        run(["ip", "link", "add", self._link, "type", "veth", *peer])
        self._in_hub("ip", "link", "set", "machine", "master", "hub", "up")
        run(["ip", "address", "add", f"{self.gateway}/24", "dev", self._link])
        run(["ip", "link", "set", self._link, "up"])

    def stop(self) -> None:
        """Let the kernel take everything away; waits until this machine's cable is gone."""
        if self._hub is not None:
            self._hub.kill()
        deadline = time.monotonic() + 20.0
        while Path(f"/sys/class/net/{self._link}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)

    def address(self, index: int) -> str:
        """Address of node `index`, from 1 on."""
        return str(self._subnet[_FIRST_NODE + index])

    def plug_in(self, pid: int, index: int, others: Iterable[int]) -> None:
        """Give the node whose first process is `pid` its cable, address and routes."""
        name = f"node{index}"
        peer = ["peer", "name", "eth0", "netns", f"/proc/{pid}/ns/net"]
        self._in_hub("ip", "link", "add", name, "type", "veth", *peer)
        self._in_hub("ip", "link", "set", name, "master", "hub", "up")
        inside = ["nsenter", f"--net=/proc/{pid}/ns/net", "ip"]
        run([*inside, "link", "set", "lo", "up"])
        run([*inside, "address", "add", f"{self.address(index)}/24", "dev", "eth0"])
        run([*inside, "link", "set", "eth0", "up"])
        for other in others:
            run([*inside, "route", "add", pod_range(other), "via", self.address(other)])
        run([*inside, "route", "add", "default", "via", self.gateway])

    def cut(self, index: int) -> None:
        """Pull the node's cable."""
        self._in_hub("ip", "link", "set", f"node{index}", "down")

    def heal(self, index: int) -> None:
        """Plug it in again."""
        self._in_hub("ip", "link", "set", f"node{index}", "up")

    @property
    def _hub_pid(self) -> int:
        pid = self._hub.pid if self._hub is not None else None
        if pid is None:
            raise RuntimeError("the network is not started")
        return pid

    def _in_hub(self, *command: str) -> None:
        run(["nsenter", f"--net=/proc/{self._hub_pid}/ns/net", *command])

    def _wait_for_namespace(self) -> None:
        deadline = time.monotonic() + 20.0
        own = os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{self._hub_pid}/ns/net") == own:
            if time.monotonic() > deadline:
                raise RuntimeError("the network namespace was not made")
            time.sleep(0.02)


def _free_subnet() -> ipaddress.IPv4Network:
    """A /24 that no interface of this machine has; two test runs get different ones."""
    used = run(["ip", "-4", "-o", "address"])
    start = os.getpid() % 256
    for step in range(256):
        candidate = ipaddress.IPv4Network((int(_RANGE[0]) + ((start + step) % 256 << 8), 24))
        if f" {candidate[1]}/" not in used:
            return candidate
    raise RuntimeError(f"no free part of {_RANGE}")
