"""How many devices one server carries.

    python bench/capacity [--quick] [--parts simulated measured]

`simulated` runs in virtual time and writes `simulated_a100.json`, `.csv` and `.png`. `measured` drives a real verifier with
vLLM, which needs the environment of `make engines`, and writes `capacity.json`, `.csv` and `.png`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support"), str(HERE.parents[1] / "tests" / "support")]

import measured  # noqa: E402
import plots  # noqa: E402
import simulated  # noqa: E402

from sled_bench import report  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer loads, no ablations")
    parser.add_argument("--parts", nargs="+", default=[*PARTS], choices=[*PARTS])
    options = parser.parse_args()
    if "simulated" in options.parts:
        rows, figures = simulated.run(options.quick)
        name = "simulated_a100_quick" if options.quick else "simulated_a100"
        report.write_rows(name, rows)
        report.write(name, figures, "simulated")
        plots.draw(rows, report.RESULTS / f"{name}.png")
    if "measured" in options.parts:
        rows, figures = measured.run(options.quick)
        name = "capacity_quick" if options.quick else "capacity"
        report.write_rows(name, rows)
        report.write(name, figures, "measured")
        plots.curves(rows, measured.RATES, report.RESULTS / f"{name}.png")


PARTS = ("simulated", "measured")


if __name__ == "__main__":
    main()
