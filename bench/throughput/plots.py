"""Ratio over load for each backend, with what was possible, and the absolute figures beside other servers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

CASES = {
    "vllm": "vLLM, 1.5B bf16",
    "small": "vLLM, 135M bf16",
    "torch": "torch, 1.5B bf16",
    "llamacpp": "llama.cpp, 1.5B 4 bit",
}


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for case, label in CASES.items():
        mine = [row for row in rows if row["case"] == case and row["arm"] == "sled"]
        if not mine:
            continue
        loads = [row["load"] for row in mine]
        (line,) = left.plot(loads, [row["ratio"] for row in mine], marker="o", label=label)
        limits = [row.get("limit_ratio", float("nan")) for row in mine]
        left.plot(loads, limits, linestyle=":", color=line.get_color())
    left.axhline(1.0, color="grey", linewidth=0.8)
    left.set_ylabel("output tokens a CPU-second, no drafts = 1\n(dotted: what was possible)")
    left.set_ylim(bottom=0)
    shown = [(row["case"], row["arm"]) for row in rows if _absolute(row)]
    for case, arm in dict.fromkeys(shown):
        mine = [row for row in rows if (row["case"], row["arm"]) == (case, arm)]
        label = arm if case == "peers" else f"SLED on {case}, {arm}"
        style = "--" if case == "peers" else "-"
        values = [row["tokens_a_cpu_second"] for row in mine]
        right.plot([row["load"] for row in mine], values, style, marker=".", label=label)
    right.set_ylabel("1.5B: output tokens a server CPU-second")
    right.set_yscale("log")
    for axis in (left, right):
        axis.set_xscale("log", base=2)
        axis.set_xlabel("sequences")
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def _absolute(row: dict[str, Any]) -> bool:
    return row["case"] == "peers" or (
        row["case"] in ("vllm", "torch", "llamacpp") and row["arm"] in ("sled", "no drafts")
    )
