"""Child processes of a test control plane: started with a log file, recorded, always ended.

Why: the harness may only ever end what it started itself, also after a crash. Every child is
written to a `processes.json` beside its logs, with its start time, so that a later run can tell a
left-over from an unrelated process that was given the same number. Must not signal anything that
it did not record, and must not search processes by name.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

FOLDER_PREFIX = "sled-cluster-"
KILL_TIMEOUT_SECONDS = 60.0
"""The kernel takes a while to free gigabytes on a busy machine."""
_RECORD = "processes.json"
_WRITING = threading.Lock()
_LAUNCHER = Path(__file__).with_name("cluster_launch.py")


class ProcessFailed(RuntimeError):
    """A child ended or did not become ready; the message carries the end of its log."""


def start_time(pid: int) -> str | None:
    """A string that identifies this incarnation of `pid`, or None when no such process runs."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.exists():
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] == "Z" else fields[19]
    if sys.platform == "linux":
        return None
    found = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or None


@dataclass(slots=True)
class Child:
    """One program under test control; `start` and `stop` may be repeated."""

    name: str
    argv: Sequence[str]
    folder: Path
    env: dict[str, str] | None = None
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def log(self) -> Path:
        """Where standard output and error go, over all starts."""
        return self.folder / f"{self.name}.log"

    @property
    def pid(self) -> int | None:
        """The number of the running process, or None."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start the program; it ends with this process, whatever happens to it."""
        launcher = [sys.executable, "-S", "-I", str(_LAUNCHER), str(os.getpid()), *self.argv]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                launcher,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.env,
                start_new_session=True,
            )
        _record(self.folder, self.name, self._process.pid)

    def check(self) -> None:
        """Raise ProcessFailed when the program is no longer running."""
        if self.pid is None:
            code = self._process.returncode if self._process else None
            raise ProcessFailed(f"{self.name} is not running (exit {code}):\n{self.log_tail()}")

    def stop(self, grace_seconds: float = 5.0) -> None:
        """SIGTERM, then SIGKILL after `grace_seconds`; quiet when it is not running."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(KILL_TIMEOUT_SECONDS)

    def kill(self) -> None:
        """SIGKILL at once, as a crash would, and wait until it is gone."""
        self.signal_kill()
        if self._process is not None:
            self._process.wait(KILL_TIMEOUT_SECONDS)

    def signal_kill(self) -> None:
        """SIGKILL without waiting."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def cpu_seconds(self) -> float:
        """Processor time since its start (Linux); 0 while it does not run."""
        if self.pid is None:
            return 0.0
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of the log, for an error message."""
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def new_folder() -> Path:
    """A fresh folder for one control plane, owned by this process."""
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
    _record(folder, "owner", os.getpid())
    return folder


def reap_abandoned(parent: Path | None = None) -> list[int]:
    """End the recorded children of control planes whose owner is gone; returns their numbers.

    Only processes whose recorded start time still matches are signalled.
    """
    ended: list[int] = []
    for folder in sorted((parent or Path(tempfile.gettempdir())).glob(f"{FOLDER_PREFIX}*")):
        record = _read(folder)
        owner = record.pop("owner", None)
        if owner is None or start_time(owner[0]) == owner[1]:
            continue
        for pid, started in record.values():
            if start_time(pid) == started:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    ended.append(pid)
        shutil.rmtree(folder, ignore_errors=True)
    return ended


def _read(folder: Path) -> dict[str, tuple[int, str]]:
    try:
        raw = json.loads((folder / _RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return {name: (int(pid), str(started)) for name, (pid, started) in raw.items()}


def _record(folder: Path, name: str, pid: int) -> None:
    with _WRITING:
        record = _read(folder)
        record[name] = (pid, start_time(pid) or "")
        partial = folder / f"{_RECORD}.partial"
        partial.write_text(json.dumps(record))
        os.replace(partial, folder / _RECORD)


def wait_until_gone(pid: int, timeout_seconds: float) -> bool:
    """True once `pid` has ended; False after the timeout."""
    deadline = time.monotonic() + timeout_seconds
    while start_time(pid) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
