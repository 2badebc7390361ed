"""What real nodes need of this machine: rights, kernel, system programs. Installed by this project's own script on Debian.

Why: a test that needs root and containerd must say so in a sentence, and on a build machine that
has both it must get them without a person. Must not install anything unless asked: the caller
decides.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from sled_testkit.cluster_tools import Progress

PROGRAMS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "iptables": "iptables",
    "ip": "iproute2",
    "conntrack": "conntrack",
    "ethtool": "ethtool",
    "socat": "socat",
    "nsenter": "util-linux",
    "qemu-aarch64-static": "qemu-user-static",
}
_PLUGINS = Path("/usr/lib/cni/bridge")
HOW_TO = (
    "run `sudo make e2e` on a Linux machine that you may use for tests (it installs containerd, "
    "buildah and a few more from Debian, and ends what it starts); see "
    "docs/how-to/end-to-end-tests.md"
)


def obstacle() -> str | None:
    """Why real nodes cannot run here, in a sentence with the way out; None when they can."""
    if sys.platform != "linux":
        return f"real nodes need Linux: {HOW_TO}"
    if os.geteuid() != 0:
        return f"real nodes need root: {HOW_TO}"
    lacking = missing()
    if lacking and not _can_install():
        return f"{', '.join(lacking)} not installed, and this is no Debian: {HOW_TO}"
    return None


def missing() -> list[str]:
    """Packages whose programs are not here."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    found = {package for name, package in PROGRAMS.items() if not shutil.which(name, path=path)}
    if not _PLUGINS.exists():
        found.add("containernetworking-plugins")
    return sorted(found)


def install(progress: Progress) -> None:
    """Install the missing packages from Debian.

    Raises:
        RuntimeError: apt refused; the message carries the end of its output.
    """
    packages = missing()
    if not packages:
        return
    progress(f"installing {', '.join(packages)} from Debian")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    options = ["-y", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0"]
    for command in (["apt-get", "update", "-qq"], ["apt-get", "install", *options, *packages]):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-10:])
            raise RuntimeError(f"{' '.join(command[:3])} failed:\n{tail}")


def _can_install() -> bool:
    return shutil.which("apt-get") is not None and Path("/etc/debian_version").exists()


def main() -> int:
    """Say what `make test` could not run on this machine; silent when it ran everything."""
    if reason := obstacle():
        print(f"NOT RUN: the end-to-end scenarios. {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
