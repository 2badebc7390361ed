"""How many devices one server carries, in virtual time.

The scheduler and the load policy are the verifier's own, and the devices choose their draft lengths as the edge does; a cost
surface stands for the model, and drafts are right with a stated probability a token.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from sled_bench import trace
from sled_bench.devices import DeviceTiming
from sled_bench.surfaces import A100, Roofline
from sled_bench.virtual import Outcome, Policy, VirtualFleet
from sled_verifier.load_control import LoadSettings

PLAIN = LoadSettings(trim=False, meet_deadlines=False, foretell=False)
BATCH = 32
"""Sequences a step, of both servers, where a batch is bounded."""
DRAFT_TOKENS = 4
CENTRAL = Policy("central", 0, PLAIN)
STATIC = Policy("static batching", DRAFT_TOKENS, PLAIN, static_batch=BATCH, fixed=True)
DYNAMIC = Policy("dynamic batching", DRAFT_TOKENS, PLAIN, fixed=True)
SLED = Policy("sled", 8, LoadSettings())
FIRST = {CENTRAL: 450, STATIC: 1300, SLED: 1300}
"""Where the search for the capacity of each policy begins."""
LOADS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
AT_ONCE = DeviceTiming("at once", 0.0, 0.0)
FLEET = (DeviceTiming("pi5", 0.060, 0.050), DeviceTiming("orin-nano", 0.022, 0.050))
"""Assumed: a 0.5B model in 4 bits at 16 and 45 tokens a second, 50 ms from the server and back."""
TOKENS_PER_SECOND = 4.0
"""What 95 % of the devices must get on average over `SECONDS`: about as fast as people read."""
TOKEN_P95_SECONDS = 0.5
"""A second, harder objective: 95 % of all tokens within this time, counted from verdict to verdict."""
WARM_SECONDS, SECONDS = 4.0, 60.0
TEXTS, TEXT_TOKENS = 16, 64
LEARN_STEPS, STEPS = 300, 120
"""Of the throughput runs; before that the verifier is still learning what steps cost and how texts differ."""
GROWTH = 1.03
"""Capacity is found to this factor."""


def throughput(
    texts: trace.Trace, surface: Roofline, loads: tuple[int, ...]
) -> Iterator[dict[str, Any]]:
    """Output tokens a second with so many sequences that always have a draft ready."""
    for load in loads:
        plain = 0.0
        for policy in (CENTRAL, DYNAMIC, SLED):
            fleet = VirtualFleet(texts, surface, policy, [AT_ONCE] * load)
            warm = LEARN_STEPS * max(1.0, load / 64)
            done = fleet.run(warm * surface.step_seconds, STEPS * surface.step_seconds)
            plain = plain or done.tokens_per_second
            row = _row("throughput", policy, load, done)
            yield {**row, "ratio": done.tokens_per_second / plain}


def carries(texts: trace.Trace, surface: Roofline, policy: Policy, devices: int) -> Outcome:
    """A fleet of so many devices, half of each kind."""
    timings = [FLEET[n % len(FLEET)] for n in range(devices)]
    fleet = VirtualFleet(texts, surface, policy, timings, step_sequences=BATCH)
    return fleet.run(WARM_SECONDS, SECONDS)


def capacity(
    texts: trace.Trace, policy: Policy, first: int, token_p95_seconds: float
) -> tuple[int, list[dict[str, Any]]]:
    """The most devices, `first` or more, that get what they must, and the runs that showed it."""
    rows: list[dict[str, Any]] = []

    def enough(devices: int) -> bool:
        done = carries(texts, A100, policy, devices)
        slowest = done.rates[len(done.rates) // 20]
        ok = slowest >= TOKENS_PER_SECOND and done.token_p95_seconds <= token_p95_seconds
        part = "capacity" if token_p95_seconds == math.inf else "capacity, token p95"
        row = _row(part, policy, devices, done)
        rows.append({**row, "slowest_twentieth": slowest, "enough": int(ok)})
        print(rows[-1], flush=True)
        return ok

    low, high = 0, first
    while enough(high):
        low, high = high, round(1.2 * high)
    while high - low > max(1, low * (GROWTH - 1)):
        middle = (low + high) // 2
        low, high = (middle, high) if enough(middle) else (low, middle)
    return low, rows


def _row(part: str, policy: Policy, devices: int, done: Outcome) -> dict[str, Any]:
    return {
        "part": part,
        "policy": policy.name,
        "devices": devices,
        "tokens_per_second": done.tokens_per_second,
        "token_p95_seconds": done.token_p95_seconds,
        "busy_share": done.busy_share,
        "sequences_a_step": done.sequences_a_step,
        "verified_per_round": done.verified_per_round,
    }


def run(quick: bool) -> tuple[list[dict[str, Any]], dict[str, float | int | str]]:
    """Rows and figures of `simulated_a100`."""
    texts = trace.drawn(TEXTS, TEXT_TOKENS, 4000)
    rows = []
    for row in throughput(texts, A100, LOADS[2:7:2] if quick else LOADS):
        rows.append(row)
        print(row, flush=True)
    ratios = {r["devices"]: r["ratio"] for r in rows if r["policy"] == SLED.name}
    fixed = {r["devices"]: r["ratio"] for r in rows if r["policy"] == DYNAMIC.name}
    found: dict[str, int] = {}
    hard: dict[str, int] = {}
    fed: dict[str, float] = {}
    for policy, first in FIRST.items():
        if quick and policy is STATIC:
            continue
        found[policy.name], more = capacity(texts, policy, first, math.inf)
        fed[policy.name] = max(row["tokens_per_second"] for row in more)
        rows += more
        if not quick:
            hard[policy.name], more = capacity(texts, policy, first // 2, TOKEN_P95_SECONDS)
            rows += more
    figures: dict[str, float | int | str] = {
        "throughput_ratio": ratios[BATCH] if BATCH in ratios else max(ratios.values()),
        "capacity_ratio": found[SLED.name] / found[CENTRAL.name],
        "capacity_ratio_of_the_mean_device": fed[SLED.name] / fed[CENTRAL.name],
        **({"capacity_ratio_with_token_p95": hard[SLED.name] / hard[CENTRAL.name]} if hard else {}),
        **({} if quick else {"ratio_vs_static_batching": found[SLED.name] / found[STATIC.name]}),
        **{f"throughput_ratio_at_{load}_sequences": ratio for load, ratio in ratios.items()},
        **{f"fixed_length_ratio_at_{load}_sequences": ratio for load, ratio in fixed.items()},
        "worst_ratio_any_load": min(ratios.values()),
        **{f"devices_{name.replace(' ', '_').replace('-', '_')}": n for name, n in found.items()},
        "batch_sequences": BATCH,
        "slo_tokens_per_second": TOKENS_PER_SECOND,
        "slo_token_p95_seconds": TOKEN_P95_SECONDS,
        "drafts": f"made up, {trace.ACCEPTANCE} of them right",
    }
    return rows, figures
