"""What a test's nodes are to the machine below, and what is left of that: processes, link, mounts, control groups, files.

Only looks; must not end or remove anything.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from sled_testkit.cluster_process import start_time
from sled_testkit.node_machine import control_group


@dataclass(frozen=True, slots=True)
class Traces:
    """Of the cluster in `folder`, which process `owner` runs."""

    owner: int
    folder: Path
    pids: tuple[int, ...]

    @classmethod
    def of(cls, owner: int, folder: Path) -> Traces:
        """As things are now; its processes are those that name the folder."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and str(folder) in (entry / "cmdline").read_text():
                    found.append(int(entry.name))
            except OSError:
                continue
        return cls(owner, folder, tuple(found))

    def running(self) -> list[str]:
        """Processes, the link and mounts that are there."""
        found = [f"process {pid}" for pid in self.pids if start_time(pid)]
        link = Path(f"/sys/class/net/sled{self.owner}")
        found += [str(link)] if link.exists() else []
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        return found + [line for line in mounts if str(self.folder) in line]

    def wait_ended(self, seconds: float = 30.0) -> list[str]:
        """What of it runs still after so long."""
        deadline = time.monotonic() + seconds
        while (found := self.running()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return found

    def kept(self) -> list[str]:
        """Files and control groups that are there."""
        found = list(Path("/sys/fs/cgroup").glob(f"**/{control_group(self.owner)}"))
        return [str(path) for path in [*found, self.folder] if path.exists()]
