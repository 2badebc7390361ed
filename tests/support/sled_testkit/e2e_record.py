"""What the end-to-end scenarios measured: seconds to recover, tokens lost.

Why: the table in the documentation is read from a file that a run wrote, never typed. Must not hold
a figure of a scenario that failed.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
OUTAGE = "SLED_E2E_OUTAGE_SECONDS"
"""How long a device is cut off, and twice as long as the API server is away."""


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def seconds(self) -> float:
        """Time passed."""
        return time.monotonic() - self.began


@dataclass(slots=True)
class Record:
    """Figures by scenario; a scenario counts once all of its test has held."""

    seconds: dict[str, float] = field(default_factory=dict)
    compared: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    _open: dict[str, float] = field(default_factory=dict)

    def passed(self, scenario: str, seconds: float) -> None:
        """A scenario of the present test has recovered; `seconds` is what that took."""
        self._open[scenario] = round(seconds, 1)

    def close(self, held: bool, compared: int, lost: int) -> None:
        """The present test is over, with so many tokens compared and lost in it."""
        for scenario, seconds in self._open.items() if held else ():
            self.seconds[scenario] = seconds
            self.compared[scenario] = self.compared.get(scenario, 0) + compared
            self.lost[scenario] = self.lost.get(scenario, 0) + lost
        self._open.clear()

    def write(self, path: Path) -> None:
        """One flat object, as all results are."""
        figures: dict[str, float | int | str] = {
            "scenarios": len(self.seconds),
            "tokens_compared": sum(self.compared.values()),
            "tokens_lost": sum(self.lost.values()),
        }
        for name, seconds in self.seconds.items():
            figures |= {f"{name}_seconds": seconds, f"{name}_tokens_lost": self.lost[name]}
        figures |= {
            "kind": "measured",
            "machine": f"{_processor()}, {os.cpu_count()} cores",
            "commit": _commit(),
            "command": _command(),
        }
        path.write_text(json.dumps(figures, indent=2) + "\n")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return " ".join(value.split()[:2])
    return "unknown processor"


def _command() -> str:
    """What made these figures, with what it was told about outages."""
    outage = os.environ.get(OUTAGE)
    return f"{OUTAGE}={outage} make e2e" if outage else "make e2e"


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
