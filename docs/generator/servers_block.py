"""The README's table of servers on the same model, prompts and machine, from the rows that `bench/throughput` wrote."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

BEGIN = "<!-- servers: written by `make docs` from bench/results/throughput.csv -->"
END = "<!-- /servers -->"
LOADS = (1, 4, 16, 64)
OWN = {
    "vllm": "SLED on vLLM, bf16",
    "llamacpp": "SLED on llama.cpp, 4 bit",
    "torch": "SLED on torch, bf16",
}
ARMS = {"sled": "drafts from devices", "no drafts": "no drafts"}
Row = dict[str, str]


def block(rows: Sequence[Row]) -> str:
    """The table between the markers."""
    heads = [f"{load} sequence{'s' if load > 1 else ''}" for load in LOADS]
    lines = [f"| server | drafts | {' | '.join(heads)} |", f"|---|---|{'---|' * len(LOADS)}"]
    for server, mode, mine in (*_own(rows), *_others(rows)):
        speeds = {int(float(row["load"])): float(row["tokens_a_cpu_second"]) for row in mine}
        cells = [f"{speeds[load]:.1f}" if load in speeds else "–" for load in LOADS]
        lines.append(f"| {server} | {mode} | {' | '.join(cells)} |")
    return "\n".join(lines)


def refreshed(readme: str, results: Path) -> str:
    """The README with its table written anew."""
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    with (results / "throughput.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    return f"{before}{BEGIN}\n{block(rows)}\n{END}{after}"


def _own(rows: Sequence[Row]) -> Iterator[tuple[str, str, list[Row]]]:
    for case, server in OWN.items():
        for arm, mode in ARMS.items():
            mine = [row for row in rows if (row["case"], row["arm"]) == (case, arm)]
            if mine:
                yield server, mode, mine


def _others(rows: Sequence[Row]) -> Iterator[tuple[str, str, list[Row]]]:
    peers = [row for row in rows if row["case"] == "peers"]
    for arm in dict.fromkeys(row["arm"] for row in peers):
        server, _, mode = arm.rpartition(", ")
        mode = "no drafts" if mode == "plain" else f"its own: {mode}"
        yield server, mode, [row for row in peers if row["arm"] == arm]
