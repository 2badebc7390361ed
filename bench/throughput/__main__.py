"""Output tokens a processor-second of the server: SLED's backends with drafts over the same without, and other servers.

    python bench/throughput [--quick] [--parts vllm small llamacpp torch peers]

Needs the environment of `make engines`. Writes `throughput.json`, `.csv` and `.png`; parts that are not measured keep
their figures from the last run on this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support"), str(HERE.parents[1] / "tests" / "support")]

import figures  # noqa: E402
import peers  # noqa: E402
import plots  # noqa: E402
from serving import measured  # noqa: E402

from sled_bench import recording, report  # noqa: E402
from sled_bench.held_process import Case  # noqa: E402
from sled_bench.models import DRAFTER, SMALL, TARGET  # noqa: E402
from sled_bench.trace import read  # noqa: E402

TEXT_TOKENS = 128
ALL = (1, 4, 8, 16, 32, 64)
SOME = (1, 4, 16, 64)
CASES = {
    "vllm": (Case("vllm", "vllm", TARGET), ALL),
    "small": (Case("small", "vllm", SMALL, most_step_tokens=320), ALL),
    "llamacpp": (Case("llamacpp", "llamacpp", TARGET, 64, 45.0), SOME),
    "torch": (Case("torch", "torch", TARGET, 64, 15.0), SOME),
}
QUICK = 8
"""Most sequences of a quick run."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="up to 8 sequences, and fewer windows")
    parser.add_argument("--parts", nargs="+", default=[*CASES, "peers"], choices=[*CASES, "peers"])
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    found: dict[str, float | int | str] = {"load_average_before": os.getloadavg()[0]}
    for part in options.parts:
        loads = CASES.get(part, (None, peers.LOADS))[1]
        if options.quick:
            loads = tuple(load for load in loads if load <= QUICK)
        if part == "peers":
            more, ratios = peers.measured(recording.own_prompts(), loads)
        else:
            case = CASES[part][0]
            drafter = DRAFTER if case.target is TARGET else None
            trace = recording.recorded(case.target, drafter, recording.own_prompts(), TEXT_TOKENS)
            run = asyncio.run(measured(case, trace, loads, quick=options.quick))
            more, ratios = figures.of_case(case.name, run, read(trace))
        rows += more
        found |= ratios
    name = "throughput_quick" if options.quick else "throughput"
    rows = figures.kept(name, rows)
    found = figures.headline({**figures.kept_figures(name), **found})
    report.write_rows(name, rows)
    report.write(name, found, "measured")
    plots.draw(rows, report.RESULTS / f"{name}.png")


if __name__ == "__main__":
    main()
