"""The curves as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Ratio over load, and devices at the SLO for each policy."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    runs = [row for row in rows if row["part"] == "throughput"]
    for policy in dict.fromkeys(row["policy"] for row in runs):
        mine = [row for row in runs if row["policy"] == policy]
        left.plot(
            [r["devices"] for r in mine], [r["ratio"] for r in mine], marker="o", label=policy
        )
    left.set_xscale("log", base=2)
    left.set_xlabel("sequences with a draft ready")
    left.set_ylabel("output tokens/s, central = 1")
    left.set_ylim(bottom=0)
    left.legend()
    held = [row for row in rows if row["part"] == "capacity" and row["enough"]]
    names = list(dict.fromkeys(row["policy"] for row in held))
    right.barh(names, [max(r["devices"] for r in held if r["policy"] == n) for n in names])
    right.invert_yaxis()
    right.set_xlabel("devices at the SLO (simulated)")
    figure.suptitle("Simulated: an A100-like cost surface")
    figure.savefig(path, dpi=110)


def curves(rows: Sequence[dict[str, Any]], rates: Sequence[float], path: Path) -> None:
    """What a device gets over the size of the fleet, for each way of serving."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    for policy in dict.fromkeys(r["policy"] for r in rows if "only" not in r["policy"]):
        mine = [row for row in rows if row["policy"] == policy]
        speeds = [row["tokens_per_second_a_device"] for row in mine]
        axis.plot([row["devices"] for row in mine], speeds, marker="o", label=policy)
    for rate in rates:
        axis.axhline(rate, color="grey", linewidth=0.8, linestyle=":")
    axis.set_xlabel("devices")
    axis.set_ylabel("output tokens/s a device")
    axis.set_ylim(bottom=0)
    axis.legend()
    figure.savefig(path, dpi=110)
