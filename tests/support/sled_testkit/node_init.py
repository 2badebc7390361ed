"""The first process of a node of the end-to-end tests: mounts its file systems, starts its daemons, reaps.

Why: a node is a set of kernel namespaces. Everything it mounts and starts lives inside them, so that the kernel takes all of it
away when this process ends, however it ends; that is also how a test pulls a node's plug. Run by path in fresh network, mount,
process and host-name namespaces as `python node_init.py SPEC.json`; imports nothing of ours, so that it starts in milliseconds.
Must not be run outside such namespaces: it mounts over /run and /var.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_NETWORK_SECONDS = 60.0
_LIBC = ctypes.CDLL(None, use_errno=True)


def main(argv: list[str]) -> int:
    """Boot, then reap until a daemon ends or somebody ends us."""
    spec: dict[str, Any] = json.loads(Path(argv[1]).read_text())
    socket.sethostname(spec["name"])
    _mount_all(spec)
    _wait_for_network()
    for path, value in spec["sysctls"].items():
        Path(path).write_text(value)
    for command in spec["setup"]:
        subprocess.run(command, check=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    daemons: dict[int, tuple[str, list[str]]] = {}
    for name, command in spec["daemons"].items():
        daemons[_start(name, command, spec)] = (name, command)
    while True:
        pid, _ = os.wait()
        if pid in daemons:  # what a service manager would do
            name, command = daemons.pop(pid)
            time.sleep(1.0)
            daemons[_start(name, command, spec)] = (name, command)


def _mount_all(spec: dict[str, Any]) -> None:
    disk = Path(spec["disk"])
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("proc", "/proc", "proc", 0)
    upper, work = disk / "var", disk / "var-work"
    for folder in (upper, work):
        folder.mkdir(parents=True, exist_ok=True)
    _mount("var", "/var", "overlay", 0, f"lowerdir=/var,upperdir={upper},workdir={work}")
    resolv = os.path.realpath("/etc/resolv.conf")
    _mount("tmpfs", "/run", "tmpfs", 0)
    if resolv.startswith("/run/"):
        Path(resolv).parent.mkdir(parents=True, exist_ok=True)
        Path(resolv).touch()
    meminfo = Path("/run/meminfo")
    meminfo.write_text(_meminfo(Path("/proc/meminfo").read_text(), spec["memory_mib"]))
    _mount(str(meminfo), "/proc/meminfo", None, _MS_BIND)


def _meminfo(real: str, memory_mib: int) -> str:
    """The kernel's page with another total, which is what a kubelet reports as capacity."""
    total = memory_mib * 1024
    lines = []
    for line in real.splitlines():
        name, _, rest = line.partition(":")
        if name == "MemTotal":
            rest = f" {total} kB"
        elif name in ("MemFree", "MemAvailable"):
            rest = f" {total * 3 // 4} kB"
        lines.append(f"{name}:{rest}")
    return "\n".join(lines) + "\n"


def _wait_for_network() -> None:
    """The link arrives from outside; it is there when it is up and has its address."""
    deadline = time.monotonic() + _NETWORK_SECONDS
    while "eth0" not in Path("/proc/net/route").read_text():
        if time.monotonic() > deadline:
            raise TimeoutError("no network after a minute")
        time.sleep(0.05)


def _start(name: str, command: list[str], spec: dict[str, Any]) -> int:
    log = Path(spec["logs"]) / f"{spec['name']}-{name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    return process.pid


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    words = [word.encode() if word else None for word in (source, target, kind, data)]
    done = _LIBC.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3])
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount {source} on {target}: {os.strerror(number)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
