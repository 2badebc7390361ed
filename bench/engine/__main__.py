"""What the verifier itself costs, and what goes over the wire.

    python bench/engine [--seconds 6] [--parts engine wire]

Writes `engine.json`: our own CPU time of a step, verifications a second over loopback, and gRPC's own
limit on this machine; and `wire.json`: bytes a draft token and what compression costs in acceptance.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support"), str(HERE.parents[1] / "tests" / "support")]

import echo  # noqa: E402
import loopback  # noqa: E402
import overhead  # noqa: E402
import share  # noqa: E402
import wire  # noqa: E402

from sled_bench import report  # noqa: E402
from sled_bench.models import DRAFTER, SMALL_TARGET, TARGET  # noqa: E402
from sled_bench.surfaces import A100  # noqa: E402
from sled_speculation.step_cost import StepShape  # noqa: E402

SEQUENCES = 64
SHAPES = ((64, 1), (8, 8), (8, 32))
"""Devices and the sequences of each; every sequence has a draft in flight at any time."""
WIRE_TEXTS = 6
SHARE_ROUNDS = 12


def engine(seconds: float) -> dict[str, float | int | str]:
    """Figures of `engine.json`."""
    # Other work on the machine makes every figure here worse, so it is part of the result.
    figures: dict[str, float | int | str] = {"load_average_before": os.getloadavg()[0]}
    for sequences in (8, SEQUENCES):
        own = asyncio.run(overhead.own_milliseconds(sequences))
        figures[f"own_milliseconds_per_step_at_{sequences}_sequences"] = own[
            "own_milliseconds_per_step"
        ]
        figures[f"own_microseconds_per_round_at_{sequences}_sequences"] = own[
            "own_microseconds_per_round"
        ]
    step = A100(StepShape(SEQUENCES * (1 + overhead.DRAFT_TOKENS), SEQUENCES, SEQUENCES * 500))
    own_seconds = float(figures[f"own_milliseconds_per_step_at_{SEQUENCES}_sequences"]) / 1e3
    figures["own_percent_of_simulated_a100_step_at_64_sequences"] = 100 * own_seconds / step
    threads = os.cpu_count() or 1
    found = asyncio.run(share.of_a_step(SMALL_TARGET.gguf, threads, SEQUENCES, SHARE_ROUNDS))
    figures |= {f"{key}_at_{SEQUENCES}_sequences": value for key, value in found.items()}
    best = 0.0
    for devices, sequences in SHAPES:
        found = asyncio.run(loopback.verifications(devices, sequences, seconds))
        name = f"{devices}_devices_of_{sequences}"
        figures |= {f"{key}_{name}": value for key, value in found.items()}
        best = max(best, found["verifications_per_second"])
        limit = echo.messages(devices, sequences, seconds / 2)
        figures |= {f"{key}_{name}": value for key, value in limit.items()}
    figures["verifications_per_second"] = best
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="of each loopback measurement")
    parser.add_argument(
        "--parts", nargs="+", default=["engine", "wire"], choices=["engine", "wire"]
    )
    seconds = parser.parse_args().seconds
    parts = parser.parse_args().parts
    if "engine" in parts:
        report.write("engine", engine(seconds), "measured")
    if "wire" in parts:
        threads = os.cpu_count() or 1
        texts = wire.written(TARGET.gguf, WIRE_TEXTS, threads)
        found = {**wire.greedy_bytes(texts), **wire.sampled(texts, DRAFTER.gguf, threads)}
        about = {"draft_model": DRAFTER.name, "target": TARGET.name}
        report.write("wire", {**found, **about}, "measured")


if __name__ == "__main__":
    main()
