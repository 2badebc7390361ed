"""Verifications a second over loopback gRPC: a `sled-verifier` process with the fake engine, and this process as all its devices.

The texts are computed beforehand, and the devices write and read raw frames, so that what is left on
this side is gRPC itself. Every output token is compared.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc

from sled_protocol.channel import CLIENT_OPTIONS
from sled_protocol.limits import MAX_FRAME_ROUNDS
from sled_protocol.prefix import PrefixHash
from sled_protocol.v1 import verifier_pb2 as pb
from sled_testkit.verifier_device import hello_frame, open_frame
from sled_testkit.verifier_process import fake_config, verifier_process
from sled_verifier.engine.fake import ToyModel

DRAFT_TOKENS = 4
WRONG_EVERY = 5
"""Every fifth draft token is a wrong one: an acceptance of 0.8 a token."""
TEXT_TOKENS = 1500
METHOD = "/sled.v1.Verifier/Verify"


@dataclass(slots=True)
class Sequence_:
    """One greedy text that is written round by round."""

    number: int
    prompt: list[int]
    text: list[int]
    prefix: PrefixHash
    written: int = 0
    rounds: int = 0
    sent: list[int] = field(default_factory=list)

    def draft(self) -> pb.Draft:
        """The next draft."""
        start = self.written
        right = self.text[start : start + DRAFT_TOKENS]
        self.sent = [
            t if (start + n) % WRONG_EVERY else (t + 1) % 256 for n, t in enumerate(right, 1)
        ]
        return pb.Draft(
            sequence=self.number,
            committed_length=start,
            prefix_hash=self.prefix.value,
            draft_tokens=self.sent,
        )

    def take(self, verdict: pb.Verdict) -> None:
        """Write what came back.

        Raises:
            ValueError: it is not the target's own text.
        """
        output = [*self.sent[: verdict.accepted], verdict.next_token]
        end = self.written + len(output)
        if output != self.text[self.written : end]:
            raise ValueError(f"sequence {self.number} differs at token {self.written}")
        self.prefix.extend(output)
        self.written = end
        self.rounds += 1

    @property
    def over(self) -> bool:
        """No text is left to draft from."""
        return self.written + DRAFT_TOKENS + 1 > len(self.text)


class Stream:
    """One device: many sequences on one stream, each with one draft in flight."""

    def __init__(self, call: Any, sequences: Sequence[Sequence_]) -> None:
        self._call = call
        self.sequences = {each.number: each for each in sequences}

    async def open(self, device_id: str) -> None:
        """Greet and open all sequences."""
        await self._call.write(hello_frame(device_id, batches=True).SerializeToString())
        await self._call.read()
        for each in self.sequences.values():
            await self._call.write(open_frame(each.number, each.prompt).SerializeToString())
            opened = pb.ServerFrame.FromString(await self._call.read())
            if not opened.HasField("opened"):
                raise ConnectionError(str(opened))

    async def run(self, until: float) -> None:
        """Verify drafts until this time by the monotonic clock, or until a text ends."""
        outbox: asyncio.Queue[pb.Draft | None] = asyncio.Queue()
        writing = asyncio.create_task(self._write(outbox))
        for each in self.sequences.values():
            outbox.put_nowait(each.draft())
        flying = len(self.sequences)
        while flying:
            frame = pb.ServerFrame.FromString(await self._call.read())
            verdicts = frame.verdicts.verdicts or [frame.verdict]
            for verdict in verdicts:
                sequence = self.sequences.get(verdict.sequence)
                if sequence is None:
                    raise ConnectionError(str(frame))
                sequence.take(verdict)
                if time.monotonic() < until and not sequence.over:
                    outbox.put_nowait(sequence.draft())
                else:
                    flying -= 1
        outbox.put_nowait(None)
        await writing

    async def _write(self, outbox: asyncio.Queue[pb.Draft | None]) -> None:
        """Drafts that wait go in one frame, as a device's link does it."""
        while (draft := await outbox.get()) is not None:
            drafts = [draft]
            while len(drafts) < MAX_FRAME_ROUNDS and not outbox.empty():
                following = outbox.get_nowait()
                if following is None:
                    outbox.put_nowait(None)
                    break
                drafts.append(following)
            frame = pb.ClientFrame(drafts=pb.Drafts(drafts=drafts))
            await self._call.write(frame.SerializeToString())


async def verifications(
    devices: int, sequences: int, seconds: float, **settings: Any
) -> dict[str, float]:
    """Rounds a second and the verifier's CPU microseconds for each, with so many devices of so many
    sequences, each with a draft in flight at any time.
    """
    model = ToyModel()
    total = devices * sequences
    config = fake_config(
        engine={"kind": "fake", "slots": total, "contextTokens": 4096},
        batching={
            "stepTokens": 4096,
            "maxQueue": total,
            "maxSequences": total,
            "maxSequencesPerDevice": sequences,
            **settings,
        },
    )
    streams = [
        [_sequence(model, device * sequences + n, n + 1) for n in range(sequences)]
        for device in range(devices)
    ]
    with TemporaryDirectory() as folder:
        async with (
            verifier_process(config, Path(folder)) as verifier,
            grpc.aio.insecure_channel(
                verifier.address, options=(*CLIENT_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
            ) as channel,
        ):
            verify = channel.stream_stream(METHOD)
            open_streams = [Stream(verify(), part) for part in streams]
            for n, stream in enumerate(open_streams):
                await stream.open(f"device-{n}")
            cpu, began = _cpu_seconds(verifier.process.pid), time.monotonic()
            own = time.process_time()
            await asyncio.gather(*(s.run(began + seconds) for s in open_streams))
            took = time.monotonic() - began
            own = time.process_time() - own
            cpu = _cpu_seconds(verifier.process.pid) - cpu
    rounds = sum(each.rounds for part in streams for each in part)
    return {
        "verifications_per_second": rounds / took,
        "verifier_cpu_microseconds": 1e6 * cpu / rounds,
        "devices_cpu_microseconds": 1e6 * own / rounds,
    }


def _sequence(model: ToyModel, index: int, number: int) -> Sequence_:
    prompt = [index % 256, index // 256, 7, 11]
    return Sequence_(number, prompt, model.greedy(prompt, TEXT_TOKENS), PrefixHash(prompt))


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
