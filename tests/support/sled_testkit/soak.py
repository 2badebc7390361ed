"""Many devices on one verifier process for as long as one likes: is anybody starved, does memory
stay bounded, is every text the target's own? `python -m sled_testkit.soak --minutes 10` prints a
report and fails when an answer is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import grpc

from sled_protocol.v1 import verifier_pb2 as pb
from sled_protocol.v1 import verifier_pb2_grpc as pb_grpc
from sled_testkit.verifier_device import (
    Device,
    GreedyText,
    RefusedByVerifier,
    close_frame,
    draft_frame,
    greeted,
)
from sled_testkit.verifier_process import VerifierProcess, fake_config, verifier_process
from sled_verifier.engine.fake import ToyModel

TARGET = ToyModel()
MAX_SAMPLES = 4096


@dataclass(frozen=True, slots=True)
class SoakPlan:
    """What the devices do, and when it ends: after `seconds`, or when `output_tokens` are there
    (whichever is set).
    """

    devices: int = 64
    seconds: float | None = None
    output_tokens: int | None = None
    slots: int = 64
    step_seconds: float = 0.02
    token_seconds: float = 0.00005
    step_tokens: int = 512
    prefill_chunk_tokens: int = 192
    """As on a GPU, where a step costs much the same for one token and for hundreds."""
    draft_tokens: int = 4
    skill: float = 0.8
    long_prompt_share: float = 0.1
    vanish_share: float = 0.05
    """Texts during which the device drops its connection in mid-round and comes back."""
    sample_seconds: float = 1.0
    seed: int = 0


@dataclass(slots=True)
class SoakReport:
    """What came of it."""

    seconds: float = 0.0
    output_tokens: list[int] = field(default_factory=list)
    """Of each device."""
    rounds: int = 0
    texts: int = 0
    texts_differing: int = 0
    vanished: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    rss_mib: list[float] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    queue: list[int] = field(default_factory=list)
    left_sequences: int = 0
    left_devices: int = 0
    steps: int = 0

    @property
    def worst_share(self) -> float:
        """Output of the worst device over the median device's."""
        return min(self.output_tokens) / statistics.median(self.output_tokens)

    @property
    def rss_growth_mib(self) -> float:
        """Median memory of the last quarter of the samples minus that of the second quarter (the
        first warms up).
        """
        quarter = max(1, len(self.rss_mib) // 4)
        second = self.rss_mib[quarter : 2 * quarter] or self.rss_mib
        return statistics.median(self.rss_mib[-quarter:]) - statistics.median(second)

    def figures(self) -> dict[str, Any]:
        """The report in a few numbers."""
        return {
            "seconds": round(self.seconds, 1),
            "devices": len(self.output_tokens),
            "output_tokens": sum(self.output_tokens),
            "median_tokens": statistics.median(self.output_tokens),
            "worst_tokens": min(self.output_tokens),
            "worst_over_median": round(self.worst_share, 3),
            "rounds": self.rounds,
            "steps": self.steps,
            "texts": self.texts,
            "texts_differing": self.texts_differing,
            "connections_dropped": self.vanished,
            "refusals": dict(self.refusals),
            "rss_mib_first": round(self.rss_mib[0], 1),
            "rss_mib_max": round(max(self.rss_mib), 1),
            "rss_mib_last": round(self.rss_mib[-1], 1),
            "rss_growth_mib": round(self.rss_growth_mib, 2),
            "max_sequences": max(self.sequences),
            "max_queue": max(self.queue),
            "sequences_left": self.left_sequences,
            "devices_left": self.left_devices,
        }


class _Soak:
    def __init__(self, plan: SoakPlan, verifier: VerifierProcess) -> None:
        self.plan = plan
        self.verifier = verifier
        self.report = SoakReport(output_tokens=[0] * plan.devices)
        self.over = asyncio.Event()

    async def run(self) -> SoakReport:
        started = time.monotonic()
        devices = [asyncio.create_task(self._device(n)) for n in range(self.plan.devices)]
        sampling = asyncio.create_task(self._sample())
        try:
            async with asyncio.timeout(self.plan.seconds):
                await self.over.wait()
        except TimeoutError:
            self.over.set()
        self.report.seconds = time.monotonic() - started
        await asyncio.gather(*devices, sampling)
        await self._look_at_what_is_left()
        return self.report

    async def _device(self, number: int) -> None:
        rng = random.Random(f"{self.plan.seed}/{number}")
        while not self.over.is_set():
            async with greeted(self.verifier.address, f"device-{number:03}") as device:
                sequence = 0
                vanish = False
                while not (vanish or self.over.is_set()):
                    sequence += 1
                    vanish = rng.random() < self.plan.vanish_share
                    await self._text(number, rng, device, sequence, vanish)

    async def _text(
        self, number: int, rng: random.Random, device: Device, sequence: int, vanish: bool
    ) -> None:
        """Generate one text; with `vanish` only about half of it, leaving a round in flight."""
        length = 600 if rng.random() < self.plan.long_prompt_share else rng.randrange(1, 64)
        prompt = [rng.randrange(TARGET.vocab_size) for _ in range(length)]
        text = GreedyText(TARGET, prompt, skill=self.plan.skill, seed=rng.randrange(2**32))
        goal = rng.randrange(40, 120) // (2 if vanish else 1)
        # A quarter of the devices ask for short deadlines: that must not starve the others.
        deadline_ms = 4000 if number % 4 == 0 else 0
        await device.open(sequence, prompt)
        while len(text.output) < goal and not self.over.is_set():
            draft = text.draft(self.plan.draft_tokens)
            try:
                verdict = await device.round(
                    sequence, prompt, text.output, draft, deadline_ms=deadline_ms
                )
            except RefusedByVerifier as refused:
                self.report.refusals[pb.RefusalReason.Name(refused.reason)] += 1
                await asyncio.sleep(refused.refused.retry_after_ms / 1000)
                continue
            output = [*draft[: verdict.accepted], verdict.next_token]
            text.output += output
            self._count(number, len(output))
        self.report.texts += 1
        self.report.texts_differing += text.output != TARGET.greedy(prompt, len(text.output))
        if vanish:
            self.report.vanished += 1
            await device.send(draft_frame(sequence, prompt, text.output, text.draft(4)))
        else:
            await device.send(close_frame(sequence))

    def _count(self, number: int, tokens: int) -> None:
        report = self.report
        report.rounds += 1
        report.output_tokens[number] += tokens
        goal = self.plan.output_tokens
        if goal is not None and sum(report.output_tokens) >= goal:
            self.over.set()

    async def _sample(self) -> None:
        async with grpc.aio.insecure_channel(self.verifier.address) as channel:
            stub = pb_grpc.VerifierStub(channel)
            while True:
                stats = await stub.GetStats(pb.GetStatsRequest())
                if len(self.report.rss_mib) < MAX_SAMPLES:
                    self.report.rss_mib.append(self.verifier.rss_bytes() / 2**20)
                    self.report.sequences.append(stats.load.active_sequences)
                    self.report.queue.append(stats.load.queue_depth)
                if self.over.is_set():
                    return
                try:
                    async with asyncio.timeout(self.plan.sample_seconds):
                        await self.over.wait()
                except TimeoutError:
                    continue

    async def _look_at_what_is_left(self) -> None:
        """When all devices are gone, the verifier should hold nothing of them; give it a moment to
        notice.
        """
        async with grpc.aio.insecure_channel(self.verifier.address) as channel:
            stub = pb_grpc.VerifierStub(channel)
            for _ in range(500):
                stats = await stub.GetStats(pb.GetStatsRequest())
                self.report.left_sequences = stats.load.active_sequences
                self.report.left_devices = stats.connected_devices
                self.report.steps = stats.steps_total
                if not (stats.load.active_sequences or stats.connected_devices):
                    return
                await asyncio.sleep(0.01)


async def run_soak(plan: SoakPlan, folder: Path) -> SoakReport:
    """Run the plan against a verifier process of its own; its files go to `folder`."""
    fake = {"stepSeconds": plan.step_seconds, "tokenSeconds": plan.token_seconds}
    config = fake_config(
        engine={"kind": "fake", "slots": plan.slots, "fake": fake},
        batching={
            "stepTokens": plan.step_tokens,
            "prefillChunkTokens": plan.prefill_chunk_tokens,
        },
        logLevel="warning",
    )
    async with verifier_process(config, folder) as verifier:
        return await _Soak(plan, verifier).run()


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 when nobody starved, no text differed, nothing was left and memory stayed."""
    parser = argparse.ArgumentParser(prog="python -m sled_testkit.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--devices", type=int, default=64)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--step-seconds", type=float, default=0.1)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    plan = SoakPlan(
        devices=options.devices,
        seconds=options.minutes * 60,
        slots=options.slots,
        step_seconds=options.step_seconds,
    )
    with tempfile.TemporaryDirectory(prefix="sled-soak-") as folder:
        report = asyncio.run(run_soak(plan, Path(folder)))
    figures = {"plan": asdict(plan), **report.figures()}
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    good = (
        report.worst_share >= 0.5
        and report.texts_differing == 0
        and report.left_sequences == report.left_devices == 0
        and report.rss_growth_mib < 16
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
