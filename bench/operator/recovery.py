"""How long the operator needs to converge after crashes and an outage: the long run of the test.

    python bench/operator/recovery.py             # 50 kills, the API server away for 60 s

Runs tests/cluster/test_recovery.py, which fails when anything is orphaned, doubled or forbidden, and
writes what it recorded to bench/results/recovery.json. Nothing is written when the test fails.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

from sled_cli.demo.record import commit, machine

ROOT = Path(__file__).resolve().parents[2]
TEST = "tests/cluster/test_recovery.py"


def run(kills: int, outage_seconds: float) -> dict[str, list[float]]:
    """Run the test and return the properties that it recorded, by name.

    Raises:
        CalledProcessError: it failed.
    """
    settings = {
        "SLED_TEST_KILLS": str(kills),
        "SLED_TEST_OUTAGE_SECONDS": str(outage_seconds),
    }
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", TEST, f"--junitxml={report}", "--timeout=3600"]
        command += ["-o", "junit_family=xunit1"]  # the one that has properties
        subprocess.run(command, cwd=ROOT, env={**os.environ, **settings}, check=True)
        found: dict[str, list[float]] = {}
        for each in ET.parse(report).iter("property"):
            found.setdefault(each.attrib["name"], []).append(float(each.attrib["value"]))
        return found


def main() -> int:
    """Run once and write the figures."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--outage", type=float, default=60.0, help="seconds")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "recovery.json")
    chosen = parser.parse_args()
    found = run(chosen.kills, chosen.outage)
    waits = found["seconds_to_converge"]
    figures = {
        "kills": int(found["kills"][0]),
        "converged_p50_seconds": statistics.median(waits),
        "converged_worst_seconds": max(waits),
        "outage_seconds": found["outage_seconds"][0],
        "operator_acted_after_outage_seconds": found["operator_seconds_after_outage"][0],
        "converged_after_outage_seconds": found["seconds_after_outage"][0],
        "kind": "measured",
        "machine": machine(),
        "commit": commit(),
        "command": shlex.join(["python", "bench/operator/recovery.py", *sys.argv[1:]]),
    }
    print(json.dumps(figures, indent=2))
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
