"""Devices that replay recorded drafts to a real verifier over gRPC, in real time and with a device's own pace."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from sled_bench.devices import Ahead, DeviceTiming, ReplayingDevice
from sled_bench.held_process import HeldVerifier
from sled_bench.trace import Text
from sled_protocol.channel import CLIENT_OPTIONS
from sled_protocol.confidence import pack_confidences
from sled_protocol.prefix import PrefixHash
from sled_protocol.v1 import verifier_pb2 as pb
from sled_protocol.v1 import verifier_pb2_grpc as pb_grpc
from sled_speculation.draft_length_policy import DraftLengthPolicy
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
    deadline and sent again, `followed_share` were on a draft that the server had before the verdict; `cpu_share` of one core that
    this side took, and `server_cpu_share` that the verifier did.
    """

    rates: tuple[float, ...]
    token_p95_seconds: float
    verified: float
    late_share: float
    followed_share: float
    cpu_share: float
    server_cpu_share: float


@dataclass(slots=True)
class _Tally:
    tokens: int = 0
    rounds: int = 0
    verified: int = 0
    late: int = 0
    followed: int = 0
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
        following: pb.Draft | None = None
        while not over.is_set():
            if self._replay.over:
                await self._call.write(close_frame(self._sequence))
                self._replay.begin_next()
                await self._open()
                answered = time.monotonic()
            ahead = None
            if goes_on:
                asked = answered
                verdict = await self._unasked()
            elif following is not None:
                asked = answered
                verdict, ahead = await self._answer(following)
            else:
                draft, pause = self._replay.draft()
                await asyncio.sleep(pause)
                asked = time.monotonic()
                verdict, ahead = await self._round(draft)
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
            following = None
            if ahead and not goes_on and self._replay.follow(ahead, verdict.next_token):
                following = self._message(ahead.tokens)
                self.tally.followed += 1
            answered = now
        self._call.cancel()

    async def _open(self) -> None:
        self._sequence += 1
        self._replay.written = 0
        self._prefix = PrefixHash(self._replay.text.prompt)
        await self._call.write(open_frame(self._sequence, self._replay.text.prompt))
        await self._read()

    def _message(self, draft: Sequence[int]) -> pb.Draft:
        replay = self._replay
        return self._draft(
            replay.written,
            self._prefix,
            draft,
            replay.sure,
            run_tokens=replay.run_tokens,
            run_on=replay.run_on,
        )

    def _draft(
        self, at: int, prefix: PrefixHash, tokens: Sequence[int], sure: Sequence[float], **more: Any
    ) -> pb.Draft:
        return pb.Draft(
            sequence=self._sequence,
            committed_length=at,
            prefix_hash=prefix.value,
            draft_tokens=tokens,
            deadline_ms=self._deadline_ms,
            draft_confidences=pack_confidences(sure),
            **more,
        )

    async def _round(self, draft: Sequence[int]) -> tuple[pb.Verdict, Ahead | None]:
        message = self._message(draft)
        await self._call.write(pb.ClientFrame(draft=message))
        return await self._answer(message)

    async def _answer(self, sent: pb.Draft) -> tuple[pb.Verdict, Ahead | None]:
        """The verdict on what the server has, and the draft that was sent ahead meanwhile."""
        ahead, frame = await self._drafting_on()
        for _ in range(MOST_SENDINGS):
            if not frame.HasField("refused"):
                return frame.verdict, ahead
            self.tally.late += 1
            ahead = None
            await self._call.write(pb.ClientFrame(draft=sent))
            frame = await self._read()
        raise TimeoutError(f"{self._id}: no verdict after {MOST_SENDINGS} sendings")

    async def _drafting_on(self) -> tuple[Ahead | None, pb.ServerFrame]:
        """Wait for an answer; send the next draft where it is made before."""
        ahead = self._replay.ahead()
        if ahead is None:
            return None, await self._read()
        reading = asyncio.ensure_future(self._read())
        done, _ = await asyncio.wait((reading,), timeout=ahead.seconds)
        if done:
            return None, reading.result()
        await self._call.write(pb.ClientFrame(draft=self._message_ahead(ahead)))
        return ahead, await reading

    def _message_ahead(self, ahead: Ahead) -> pb.Draft:
        prefix = self._prefix.copy()
        # Where the device is wrong the draft is dropped, so only what is right needs the right hash.
        prefix.extend(self._replay.text.tokens[self._replay.written : ahead.at])
        return self._draft(
            ahead.at,
            prefix,
            ahead.tokens,
            ahead.sure,
            run_tokens=ahead.run_tokens,
            follows_token=ahead.follows_token,
        )

    async def _unasked(self) -> pb.Verdict:
        frame = await self._read()
        if not frame.HasField("refused"):
            return frame.verdict
        self.tally.late += 1
        verdict, _ = await self._round(())
        return verdict

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
    learnt: dict[int, DraftLengthPolicy],
    warm_seconds: float,
    seconds: float,
) -> Outcome:
    """One device for each of the timings, all at once. What they do until everyone has had a verdict and `warm_seconds` after that
    does not count. What they learn of draft lengths is kept in `learnt` for the next time, as a device keeps it from text to text.
    """
    options = (*CLIENT_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
    async with grpc.aio.insecure_channel(verifier.address, options=options) as channel:
        stub = pb_grpc.VerifierStub(channel)
        replays = [
            ReplayingDevice(
                timing,
                texts,
                n,
                asking.draft_tokens,
                heeds_hints=asking.heeds_hints,
                fixed=asking.fixed,
                lengths=learnt.get(n),
            )
            for n, timing in enumerate(timings)
        ]
        devices = [
            LiveDevice(stub, f"{replay.timing.name}-{n}", replay, asking.deadline_ms)
            for n, replay in enumerate(replays)
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
    learnt |= {n: replay.lengths for n, replay in enumerate(replays)}
    gaps = [gap / count for tally in tallies for gap, count in tally.gaps for _ in range(count)]
    rounds = sum(tally.rounds for tally in tallies)
    return Outcome(
        tuple(sorted(tally.tokens / took for tally in tallies)),
        float(np.quantile(gaps, 0.95)) if gaps else float("inf"),
        sum(tally.verified for tally in tallies) / max(1, rounds),
        sum(tally.late for tally in tallies) / max(1, rounds),
        sum(tally.followed for tally in tallies) / max(1, rounds),
        cpu / took,
        server / took,
    )


def _taken(devices: Sequence[LiveDevice]) -> list[_Tally]:
    """What the devices counted, who begin to count anew."""
    tallies = [device.tally for device in devices]
    for device in devices:
        device.tally = _Tally()
    return tallies
