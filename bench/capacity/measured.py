"""How many devices a real verifier carries on this machine: Qwen2.5-Coder 1.5B in bf16 on vLLM, recorded drafts of its 0.5B."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import live

from sled_bench import recording
from sled_bench.devices import DeviceTiming
from sled_bench.held_process import OFF, Case, HeldVerifier, ServerPolicy, held_verifier
from sled_bench.models import DRAFTER, TARGET
from sled_bench.trace import DRAFT_TOKENS, Text, read
from sled_speculation.draft_length_policy import DraftLengthPolicy

PI4 = DeviceTiming("pi4", 0.200, 0.050)
FLEET = (DeviceTiming("pi5", 0.060, 0.050), DeviceTiming("orin-nano", 0.022, 0.050))
"""Assumed: a 0.5B model in 4 bits at 5, 16 and 45 tokens a second, 50 ms from the server and back."""
SIZES = (2, 4, 8, 12, 16)
TURNS = 2
"""Windows of each way and size, in mirrored order: a machine that turns slower does so for all."""
STATIC_BATCH = 8
FIXED_TOKENS = 4
"""Draft tokens of a device that does not choose, as in the simulation."""
RATES = (4.0, 3.0, 2.0)
"""Output tokens a second that a device must get on average: reading pace, and somewhat less. Machines of two cores differ by a
factor of two, and one that decodes three tokens a second without drafts carries nobody at four.
"""
FEWEST = 3
"""The objective is the highest of these rates at which central serving carries so many devices: a ratio to less says little."""
TOKEN_P95_SECONDS = 1.0
PATIENT_MS = 20_000
DEADLINE_MS = 1_000
"""Where deadlines are met: what a token may take."""
WARM_SECONDS, SECONDS = 5.0, 11.0
LEARN_SECONDS = 40.0
"""For each way that learns draft lengths and step costs, once before anything counts: a verifier serves for hours."""
TEXT_TOKENS = 128


Learnt = dict[str, dict[int, DraftLengthPolicy]]
"""By way of serving and number of the device."""


@dataclass(frozen=True, slots=True)
class Serving:
    """How a server works, and what its devices draft: at most `draft_tokens` as they choose, or always so many."""

    name: str
    draft_tokens: int
    policy: ServerPolicy
    fixed: bool = False

    @property
    def asking(self) -> live.Asking:
        """What devices do there."""
        deadline = DEADLINE_MS if self.policy.meet_deadlines else PATIENT_MS
        return live.Asking(self.draft_tokens, self.fixed, self.policy.trim, deadline)


CENTRAL = Serving("central", 0, OFF)
STATIC = Serving("static batching", FIXED_TOKENS, replace(OFF, static=STATIC_BATCH), fixed=True)
DYNAMIC = Serving("dynamic batching", FIXED_TOKENS, OFF, fixed=True)
DEADLINES = Serving("deadlines, no trimming", DRAFT_TOKENS, ServerPolicy(trim=False))
SLED = Serving("sled", DRAFT_TOKENS, ServerPolicy())


async def curves(quick: bool) -> list[dict[str, Any]]:
    """One row for each way of serving and size of the fleet."""
    trace = recording.recorded(TARGET, DRAFTER, recording.own_prompts(), TEXT_TOKENS)
    sizes = SIZES[1:3] if quick else SIZES
    ways = (CENTRAL, STATIC, SLED) if quick else (CENTRAL, SLED, STATIC, DYNAMIC, DEADLINES)
    rows: list[dict[str, Any]] = []
    texts = read(trace).texts
    learnt: Learnt = {}
    async with held_verifier(Case("capacity", "vllm", TARGET), trace, max(sizes)) as verifier:
        for way in (way for way in ways if not way.fixed and way.draft_tokens):
            await _learn(verifier, texts, way, learnt.setdefault(way.name, {}))
        for size in sizes:
            rows += await _rows(verifier, texts, ways, _fleet(size), learnt, 1 if quick else TURNS)
        if not quick:
            for row in await _rows(verifier, texts, (CENTRAL, SLED), [PI4] * 4, {}, TURNS):
                rows.append({**row, "policy": f"{row['policy']}, pi4 only"})
    return rows


def _fleet(size: int) -> list[DeviceTiming]:
    return [FLEET[n % len(FLEET)] for n in range(size)]


async def _learn(
    verifier: HeldVerifier,
    texts: Sequence[Text],
    way: Serving,
    learnt: dict[int, DraftLengthPolicy],
) -> None:
    """Let a fleet of the middle size run unheeded."""
    await verifier.use(way.policy)
    fleet = _fleet(SIZES[len(SIZES) // 2])
    await live.fleet(verifier, texts, fleet, way.asking, learnt, LEARN_SECONDS, 0.0)


async def _rows(
    verifier: HeldVerifier,
    texts: Sequence[Text],
    ways: Sequence[Serving],
    fleet: Sequence[DeviceTiming],
    learnt: Learnt,
    turns: int,
) -> list[dict[str, Any]]:
    """One row for each way: the means of its windows."""
    found: list[dict[str, Any]] = []
    for turn in range(turns):
        for way in ways if turn % 2 == 0 else reversed(ways):
            found.append(await _row(verifier, texts, way, fleet, learnt.setdefault(way.name, {})))
    return [_mean([row for row in found if row["policy"] == way.name]) for way in ways]


def _mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        key: value if isinstance(value, str) else sum(row[key] for row in rows) / len(rows)
        for key, value in rows[0].items()
    }


async def _row(
    verifier: HeldVerifier,
    texts: Sequence[Text],
    way: Serving,
    timings: Sequence[DeviceTiming],
    learnt: dict[int, DraftLengthPolicy],
) -> dict[str, Any]:
    await verifier.use(way.policy)
    done = await live.fleet(verifier, texts, timings, way.asking, learnt, WARM_SECONDS, SECONDS)
    row = {
        "policy": way.name,
        "devices": len(timings),
        "tokens_per_second_a_device": sum(done.rates) / len(done.rates),
        "slowest": done.rates[0],
        "token_p95_seconds": done.token_p95_seconds,
        "verified_per_round": done.verified,
        "late_share": done.late_share,
        "followed_share": done.followed_share,
        "driver_cpu_share": done.cpu_share,
        "server_cpu_share": done.server_cpu_share,
    }
    print(row, flush=True)
    return row


def carried(rows: Sequence[Mapping[str, Any]], policy: str, rate: float) -> float:
    """Devices at which the mean rate meets `rate`, straight between the sizes that were run; 0 when even the fewest miss it.

    Beyond the last size that meets both criteria the curve is followed to where it leaves the rate, unless the 95th
    percentile is missed before.
    """
    mine = [row for row in rows if row["policy"] == policy]
    held = 0.0
    before: Mapping[str, Any] | None = None
    for row in mine:
        if row["token_p95_seconds"] > TOKEN_P95_SECONDS:
            return held
        speed = row["tokens_per_second_a_device"]
        if speed < rate:
            if before is None:
                return held
            fast = before["tokens_per_second_a_device"]
            share = (fast - rate) / (fast - speed)
            return float(before["devices"] + share * (row["devices"] - before["devices"]))
        held, before = float(row["devices"]), row
    return held


def figures(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, float | int | str]]:
    """The flat figures of `capacity.json`."""
    names = dict.fromkeys(row["policy"] for row in rows if "only" not in row["policy"])
    found = {rate: {name: carried(rows, name, rate) for name in names} for rate in RATES}
    wanted = next((rate for rate in RATES if found[rate][CENTRAL.name] >= FEWEST), RATES[-1])
    yield from _ratios(found[wanted], "")
    for rate, devices in found.items():
        yield from _ratios(devices, f"_at_{rate:g}_tokens_a_second")
        for name, count in devices.items():
            plain = name.replace(", ", "_").replace(" ", "_")
            yield f"devices_{plain}_at_{rate:g}_tokens_a_second", count
    for row in rows:
        if "only" in row["policy"]:
            name = row["policy"].split(",")[0]
            yield f"tokens_a_second_on_pi4_{name}", row["tokens_per_second_a_device"]
    yield "slo_tokens_per_second", wanted
    yield "slo_token_p95_seconds", TOKEN_P95_SECONDS
    yield "static_batch_rounds", STATIC_BATCH
    yield "driver_cpu_share_largest", max(row["driver_cpu_share"] for row in rows)


def _ratios(devices: Mapping[str, float], end: str) -> Iterator[tuple[str, float]]:
    for name, other in (("ratio_vs_central", CENTRAL), ("ratio_vs_static_batching", STATIC)):
        if devices.get(other.name):
            yield f"{name}{end}", devices[SLED.name] / devices[other.name]


def run(quick: bool) -> tuple[list[dict[str, Any]], dict[str, float | int | str]]:
    """Rows and figures."""
    rows = asyncio.run(curves(quick))
    return rows, dict(figures(rows))
