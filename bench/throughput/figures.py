"""From windows to figures: ratios of arms at one load, the share of what was possible, and margins."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from fleet import Window
from limit import best_ratio
from serving import FIXED, PLAIN, SLED, Run

from sled_bench import report
from sled_bench.trace import Trace

Figures = dict[str, float | int | str]
RECTANGULAR = {"llamacpp"}
"""Cases whose steps compute as many tokens for every sequence as for the one with most."""


def of_case(name: str, run: Run, trace: Trace) -> tuple[list[dict[str, Any]], Figures]:
    """One row for each load and arm, and the figures of the case, their names beginning with its name."""
    rows: list[dict[str, Any]] = []
    shares, figures = [], Figures()
    for load in dict.fromkeys(window.load for window in run.windows):
        arms = _by_arm(run.windows, load)
        plain = _sum(arms[PLAIN.name])
        seconds = {0: plain["cpu_seconds_a_step"]}
        for arm, windows in arms.items():
            row = {"case": name, "load": load, "arm": arm, **_sum(windows)}
            row["ratio"] = row["tokens_a_cpu_second"] / plain["tokens_a_cpu_second"]
            row["wall_ratio"] = row["tokens_a_second"] / plain["tokens_a_second"]
            rows.append(row)
            fixed = next((f.draft_tokens for f in FIXED if f.name == arm), None)
            if fixed is not None:
                seconds[fixed] = seconds[0] * _beside_plain(run.windows, load, arm)[1]
        mine = next(r for r in rows if r["load"] == load and r["arm"] == SLED.name)
        mine["ratio"] = _beside_plain(run.windows, load, SLED.name)[0]
        figures[f"{name}_ratio_at_{load}_sequences"] = mine["ratio"]
        if len(seconds) > 1:
            one_length = name in RECTANGULAR and load > 1
            mine["limit_ratio"] = best_ratio(trace, seconds, one_length=one_length)
            shares.append(mine["ratio"] / mine["limit_ratio"])
            figures[f"{name}_limit_at_{load}_sequences"] = mine["limit_ratio"]
    figures[f"{name}_worst_ratio"] = min(r["ratio"] for r in rows if r["arm"] == SLED.name)
    figures[f"{name}_share_of_limit"] = min(shares)
    figures[f"{name}_drafts"] = trace.drafter
    figures[f"{name}_acceptance"] = trace.acceptance()[0]
    return rows, figures | _margins(name, run)


def _margins(name: str, run: Run) -> Figures:
    """How often the target would have left the text, and by how many logits."""
    margins = np.array(run.margins or [0.0])
    return {
        f"{name}_places": run.places,
        f"{name}_diverging_percent": 100 * len(run.margins) / max(run.places, 1),
        f"{name}_diverging_margin_median": float(np.median(margins)),
        f"{name}_diverging_margin_largest": float(margins.max()),
    }


def _beside_plain(windows: Sequence[Window], load: int, arm: str) -> tuple[float, float]:
    """Output of a round with drafts over its processor time in rounds without, and that time, both over the same windows, which
    followed each other: a machine that turns slower does so for both of a pair. Rounds with more drafts bring and cost more, so
    that neither may be a median, nor of other windows than the other.
    """
    brought, cost = [], []
    for first, second in itertools.pairwise(w for w in windows if w.load == load):
        pair = {window.arm: window for window in (first, second)}
        if pair.keys() == {PLAIN.name, arm}:
            drafted, plain = pair[arm], pair[PLAIN.name]
            brought.append(drafted.tokens / drafted.rounds)
            cost.append(drafted.cpu / drafted.rounds / (plain.cpu / plain.rounds))
    return float(np.mean(brought) / np.mean(cost)), float(np.mean(cost))


def _by_arm(windows: Sequence[Window], load: int) -> dict[str, list[Window]]:
    arms: dict[str, list[Window]] = {}
    for window in windows:
        if window.load == load:
            arms.setdefault(window.arm, []).append(window)
    return arms


def _sum(windows: Sequence[Window]) -> dict[str, float]:
    """Texts differ, so what a round brought is averaged; machines are disturbed, so what it took is the median of windows."""
    rounds = sum(w.rounds for w in windows)
    tokens_a_round = sum(w.tokens for w in windows) / rounds
    cpu = float(np.median([w.cpu / w.rounds for w in windows]))
    wall = float(np.median([w.wall / w.rounds for w in windows]))
    return {
        "tokens_a_cpu_second": tokens_a_round / cpu,
        "tokens_a_second": tokens_a_round / wall,
        "tokens_a_round": tokens_a_round,
        "verified_a_round": sum(w.verified for w in windows) / rounds,
        "rounds_a_step": sum(w.rounds_a_step for w in windows) / len(windows),
        # Of a step with all sequences: rounds that fell out of step are counted as shares of one.
        "cpu_seconds_a_step": cpu * windows[0].load,
    }


def headline(figures: Mapping[str, float | int | str]) -> Figures:
    """The figures that have short names, first."""
    short = {
        "ratio_at_1_sequence": "vllm_ratio_at_1_sequences",
        "ratio_at_4_sequences": "vllm_ratio_at_4_sequences",
        "ratio_at_8_sequences": "vllm_ratio_at_8_sequences",
        "small_target_ratio_at_4_sequences": "small_ratio_at_4_sequences",
    }
    first: Figures = {name: figures[long] for name, long in short.items() if long in figures}
    for name in ("worst_ratio", "share_of_limit"):
        values = [float(v) for key, v in figures.items() if key.endswith(f"_{name}")]
        if values:
            first["worst_ratio_any_load" if name == "worst_ratio" else name] = min(values)
    return {**first, **{k: v for k, v in figures.items() if k not in first}}


def kept(name: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """These rows, and those of other cases from the last run."""
    file = report.RESULTS / f"{name}.csv"
    new = {row["case"] for row in rows}
    if not file.exists():
        return list(rows)
    with file.open(encoding="utf-8") as lines:
        old = [row for row in csv.DictReader(lines) if row["case"] not in new]
    return [*map(_numbers, old), *rows]


def kept_figures(name: str) -> Figures:
    """The figures of the last run."""
    file = report.RESULTS / f"{name}.json"
    about = ("kind", "machine", "commit", "command")
    old = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return {key: value for key, value in old.items() if key not in about}


def _numbers(row: Mapping[str, str]) -> dict[str, Any]:
    words = ("case", "arm")
    return {k: v if k in words else float(v) for k, v in row.items() if v}
