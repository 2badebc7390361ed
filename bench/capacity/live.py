"""Devices that replay recorded drafts to a real verifier over gRPC, in real time and with a device's own pace."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from sled_bench.devices import DeviceTiming, ReplayingDevice
from sled_bench.held_process import HeldVerifier
from sled_bench.trace import Text
from sled_protocol.channel import CLIENT_OPTIONS
from sled_protocol.confidence import pack_confidences
from sled_protocol.prefix import PrefixHash
from sled_protocol.v1 import verifier_pb2 as pb
from sled_protocol.v1 import verifier_pb2_grpc as pb_grpc
from sled_testkit.verifier_device import close_frame, hello_frame, open_frame

MOST_SENDINGS = 20
START_SECONDS = 120.0
"""Until every device must have had a verdict."""
LATE = pb.REFUSAL_REASON_DEADLINE_EXCEEDED


@dataclass(frozen=True, slots=True)
class Asking:
    """What the devices do: the most tokens of a draft, whether each has so many, whether they heed the verifier's hints, and
    by when they want each round answered.
    """

    draft_tokens: int
    fixed: bool
    heeds_hints: bool
    deadline_ms: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a fleet got: output tokens a second of each device, and the 95th percentile of the time for a token (from verdict
    to verdict, divided by what it brought). `verified` draft tokens a round; `late_share` of the rounds were refused for their
    deadline and sent again; `cpu_share` of one core that this side took, and `server_cpu_share` that the verifier did.
    """

    rates: tuple[float, ...]
    token_p95_seconds: float
    verified: float
    late_share: float
    cpu_share: float
    server_cpu_share: float


@dataclass(slots=True)
class _Tally:
    tokens: int = 0
    rounds: int = 0
    verified: int = 0
    late: int = 0
    gaps: list[tuple[float, int]] = field(default_factory=list)


class LiveDevice:
    """One device with a stream of its own."""

    def __init__(
        self, stub: Any, device_id: str, replay: ReplayingDevice, deadline_ms: int
    ) -> None:
        self._stub = stub
        self._deadline_ms = deadline_ms
        self._call: Any = None
        self._id = device_id
        self._replay = replay
        self._sequence = 0
        self._prefix = PrefixHash()
        self.tally = _Tally()
        self.began = asyncio.Event()
        """Set with the first verdict, which had to wait for the prompts of all."""

    async def run(self, over: asyncio.Event) -> None:
        """Write texts until it is over."""
        self._call = self._stub.Verify()
        await self._call.write(hello_frame(self._id, draft_model="replayed"))
        await self._read()
        await self._open()
        answered, goes_on = time.monotonic(), False
        while not over.is_set():
            if self._replay.over:
                await self._call.write(close_frame(self._sequence))
                self._replay.begin_next()
                await self._open()
                answered = time.monotonic()
            if goes_on:
                asked = answered
                verdict = await self._unasked()
            else:
                draft, pause = self._replay.draft()
                await asyncio.sleep(pause)
                asked = time.monotonic()
                verdict = await self._round(draft)
            goes_on = verdict.goes_on
            now = time.monotonic()
            output = self._replay.take(
                verdict.accepted,
                verdict.next_token,
                verdict.verified,
                verdict.max_draft_tokens_hint,
                now - asked,
                goes_on,
            )
            self._prefix.extend(output)
            self.began.set()
            self.tally.tokens += len(output)
            self.tally.rounds += 1
            self.tally.verified += verdict.verified
            self.tally.gaps.append((now - answered, len(output)))
            answered = now
        self._call.cancel()

    async def _open(self) -> None:
        self._sequence += 1
        self._replay.written = 0
        self._prefix = PrefixHash(self._replay.text.prompt)
        await self._call.write(open_frame(self._sequence, self._replay.text.prompt))
        await self._read()

    async def _round(self, draft: Sequence[int]) -> pb.Verdict:
        message = pb.Draft(
            sequence=self._sequence,
            committed_length=self._replay.written,
            prefix_hash=self._prefix.value,
            draft_tokens=draft,
            deadline_ms=self._deadline_ms,
            draft_confidences=pack_confidences(self._replay.sure),
            run_tokens=self._replay.run_tokens,
            run_on=self._replay.run_on,
        )
        for _ in range(MOST_SENDINGS):
            await self._call.write(pb.ClientFrame(draft=message))
            frame = await self._read()
            if not frame.HasField("refused"):
                return frame.verdict
            self.tally.late += 1
        raise TimeoutError(f"{self._id}: no verdict after {MOST_SENDINGS} sendings")

    async def _unasked(self) -> pb.Verdict:
        frame = await self._read()
        if not frame.HasField("refused"):
            return frame.verdict
        self.tally.late += 1
        return await self._round(())

    async def _read(self) -> pb.ServerFrame:
        frame = await self._call.read()
        if frame is grpc.aio.EOF:
            raise ConnectionError(f"{self._id}: the stream ended")
        if frame.HasField("refused") and frame.refused.reason != LATE:
            raise ConnectionError(str(frame))
        return frame


async def fleet(
    verifier: HeldVerifier,
    texts: Sequence[Text],
    timings: Sequence[DeviceTiming],
    asking: Asking,
    warm_seconds: float,
    seconds: float,
) -> Outcome:
    """One device for each of the timings, all at once. What they do until everyone has had a verdict and `warm_seconds` after that
    does not count.
    """
    options = (*CLIENT_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
    async with grpc.aio.insecure_channel(verifier.address, options=options) as channel:
        stub = pb_grpc.VerifierStub(channel)
        devices = [
            LiveDevice(
                stub,
                f"{timing.name}-{n}",
                ReplayingDevice(
                    timing,
                    texts,
                    n,
                    asking.draft_tokens,
                    heeds_hints=asking.heeds_hints,
                    fixed=asking.fixed,
                ),
                asking.deadline_ms,
            )
            for n, timing in enumerate(timings)
        ]
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for device in devices:
                group.create_task(device.run(over))
            async with asyncio.timeout(START_SECONDS):
                await asyncio.gather(*(device.began.wait() for device in devices))
            await asyncio.sleep(warm_seconds)
            _taken(devices)
            cpu, began, server = time.process_time(), time.monotonic(), verifier.cpu_seconds()
            await asyncio.sleep(seconds)
            tallies = _taken(devices)
            cpu, took = time.process_time() - cpu, time.monotonic() - began
            server = verifier.cpu_seconds() - server
            over.set()
    gaps = [gap / count for tally in tallies for gap, count in tally.gaps for _ in range(count)]
    rounds = sum(tally.rounds for tally in tallies)
    return Outcome(
        tuple(sorted(tally.tokens / took for tally in tallies)),
        float(np.quantile(gaps, 0.95)) if gaps else float("inf"),
        sum(tally.verified for tally in tallies) / max(1, rounds),
        sum(tally.late for tally in tallies) / max(1, rounds),
        cpu / took,
        server / took,
    )


def _taken(devices: Sequence[LiveDevice]) -> list[_Tally]:
    """What the devices counted, who begin to count anew."""
    tallies = [device.tally for device in devices]
    for device in devices:
        device.tally = _Tally()
    return tallies
