"""Run the join kit as root on a device of its own: a folder, in namespaces, with stand-ins for systemd and K3s.

Why: what the kit installs, starts and takes back lies at absolute paths and needs root; here those paths are a
folder's, so that a run can be compared file by file and cut off at any instant. Must not be used to claim anything
about K3s: neither it nor its installer is here, and the stand-ins say only what the kit gave them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from sled_testkit.join_boards import PI_4B
from sled_testkit.join_kit import KIT, ROOT, SERVER, TOKEN, Done

STAND_INS = ROOT / "tests" / "integration" / "join_kit" / "stand_ins"
PINNED = "v1.36.3+k3s1"
TIMEOUT_SECONDS = 240.0
_NAMESPACES = ("--mount", "--pid", "--net", "--ipc", "--uts")
_SPIED = [
    "awk",
    "basename",
    "cat",
    "chmod",
    "chown",
    "cmp",
    "cp",
    "curl",
    "cut",
    "dirname",
    "env",
    "find",
    "getconf",
    "grep",
    "head",
    "id",
    "ln",
    "mkdir",
    "mktemp",
    "mv",
    "printf",
    "readlink",
    "rm",
    "rmdir",
    "sed",
    "sh",
    "sleep",
    "sort",
    "systemctl",
    "tee",
    "touch",
    "tr",
    "uname",
]
_FOLDERS = [
    "etc/alternatives",
    "etc/systemd/system/multi-user.target.wants",
    "var/lib",
    "var/log",
    "run/systemd/system",
    "root",
    "tmp",
    "usr",
    "proc",
    "dev",
    "kit",
    "stand-ins",
    "record",
]


def missing() -> str | None:
    """Why no such device can be made here; None when it can."""
    if os.geteuid() != 0:
        return (
            "the join kit's container needs root: sudo .venv/bin/pytest tests/integration/join_kit"
        )
    for program in ("unshare", "chroot", "mount"):
        if shutil.which(program) is None:
            return f"the join kit's container needs {program} (util-linux, coreutils)"
    probe = ["unshare", *_NAMESPACES, "--fork", "mount", "--make-rprivate", "/"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        return f"the join kit's container needs mount and pid namespaces: {done.stderr.strip()}"
    return None


class Container:
    """A Raspberry Pi 4B whose files are under one folder; `record` holds what the stand-ins saw."""

    def __init__(self, folder: Path) -> None:
        self.device = folder / "device"
        self.root = self.device / "root"
        self.record = folder / "record"
        for name in _FOLDERS:
            (self.root / name).mkdir(parents=True)
        (self.device / "local" / "bin").mkdir(parents=True)
        for path in (folder, self.device, self.root, self.device / "local"):
            path.chmod(0o755)
        (self.root / "tmp").chmod(0o1777)
        for name in ("dev/null", "dev/urandom"):
            (self.root / name).touch()
        for name in ("bin", "sbin", "lib", "lib64"):
            host = Path("/", name)
            if host.is_symlink():
                (self.root / name).symlink_to(os.readlink(host))
            elif host.is_dir():
                (self.root / name).mkdir()
        PI_4B.write(self.root, tree="sys/firmware/devicetree/base")
        self._prepare_record()

    def _prepare_record(self) -> None:
        programs = self.record / "programs"
        programs.mkdir(parents=True)
        self.record.chmod(0o777)
        for name in _SPIED:
            (programs / name).symlink_to("/stand-ins/spy")
        self.write("cluster-token", TOKEN + "\n")
        self.write("token", TOKEN + "\n").chmod(0o600)
        shutil.copy(STAND_INS / "install.sh", self.record)
        self.k3s(PINNED)

    def write(self, name: str, text: str) -> Path:
        """A file beside the device, at /record on it."""
        path = self.record / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    def read(self, name: str) -> str:
        """What a stand-in wrote; empty when it wrote nothing."""
        path = self.record / name
        return path.read_text() if path.exists() else ""

    def k3s(self, version: str, name: str = "k3s", mode: int = 0o644) -> str:
        """A stand-in for that version of K3s; its path on the device."""
        text = (STAND_INS / "k3s").read_text().replace("version=VERSION", f"version={version}")
        self.write(name, text).chmod(mode)
        return f"/record/{name}"

    def run(self, *arguments: str, user: str = "0:0", stdin: str = "") -> Done:
        """The kit with these arguments."""
        with self._started(arguments, user) as process:
            out, err = process.communicate(stdin, timeout=TIMEOUT_SECONDS)
        return Done(process.returncode, out, err)

    def join(self, *arguments: str, **given: str) -> Done:
        """Join from disk: the token's file, the stand-ins for K3s and its installer."""
        disk = ("--installer", "/record/install.sh", "--k3s-binary", "/record/k3s")
        cluster = ("--server", SERVER, "--token-file", "/record/token")
        return self.run(*cluster, *disk, *arguments, **given)

    def cut(self, change: int, *arguments: str) -> bool:
        """Join and lose power before that change (counted from 1); False when it was over before."""
        for name in ("changes", "cut"):
            (self.record / name).unlink(missing_ok=True)
        self.write("cut-before", str(change))
        disk = ("--installer", "/record/install.sh", "--k3s-binary", "/record/k3s")
        given = ("--server", SERVER, "--token-file", "/record/token", *disk, *arguments)
        deadline = time.monotonic() + TIMEOUT_SECONDS
        with self._started(given, "0:0") as process:
            while process.poll() is None and not (self.record / "cut").exists():
                assert time.monotonic() < deadline
                time.sleep(0.02)
        (self.record / "cut-before").unlink()
        return (self.record / "cut").exists()

    @contextlib.contextmanager
    def _started(self, arguments: tuple[str, ...], user: str) -> Iterator[subprocess.Popen[str]]:
        enter = [str(STAND_INS / "enter.sh"), str(self.device), str(KIT), str(self.record), user]
        kit = ["sh", "/kit/sled-edge-join", *arguments]
        process = subprocess.Popen(
            ["unshare", *_NAMESPACES, "--fork", "--kill-child", *enter, *kit],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def files(self) -> dict[str, tuple[int, int, bytes]]:
        """Everything on the device: by path its type and mode, its owner, and its content or target."""
        found = {}
        for path in sorted(self.device.rglob("*")):
            seen = path.lstat()
            content = b""
            if stat.S_ISLNK(seen.st_mode):
                content = os.readlink(path).encode()
            elif stat.S_ISREG(seen.st_mode):
                content = path.read_bytes()
            found[str(path.relative_to(self.device))] = (seen.st_mode, seen.st_uid, content)
        return found

    def stamps(self) -> dict[str, int]:
        """When each file on the device was last written."""
        return {
            str(path): path.lstat().st_mtime_ns for path in self.device.rglob("*") if path.is_file()
        }
