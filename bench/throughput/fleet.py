"""Sequences that replay recorded drafts to a verifier over gRPC, one stream each, and windows of rounds in which the verifier's
processor time is read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from sled_bench.held_process import HeldVerifier
from sled_bench.trace import Text
from sled_protocol.channel import CLIENT_OPTIONS
from sled_protocol.confidence import pack_confidences
from sled_protocol.prefix import PrefixHash
from sled_protocol.v1 import verifier_pb2 as pb
from sled_protocol.v1 import verifier_pb2_grpc as pb_grpc
from sled_testkit.verifier_device import close_frame, hello_frame, open_frame

DEADLINE_MS = 120_000
FEW = 8
LEAD_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Arm:
    """What the sequences do: drafts of at most `draft_tokens`, no longer than the verifier's hint where that is heeded."""

    name: str
    draft_tokens: int
    heeds_hints: bool = False


@dataclass(frozen=True, slots=True)
class Window:
    """Some rounds of all sequences: `cpu` seconds of the verifier's process, and `wall` seconds."""

    arm: str
    load: int
    rounds: int
    tokens: int
    verified: int
    rounds_a_step: float
    cpu: float
    wall: float


@dataclass(frozen=True, slots=True)
class Mark:
    """Totals at one moment."""

    rounds: int = 0
    tokens: int = 0
    verified: int = 0
    cpu: float = 0.0
    wall: float = 0.0


class Meter:
    """Adds up verdicts and reads the clocks when the first `lead` of them are over: those who begin together do not arrive
    together, so the first steps are not what follows.
    """

    def __init__(self, verifier: HeldVerifier, lead: int) -> None:
        self._verifier = verifier
        self._lead = lead
        self._rounds = self._tokens = self._verified = 0
        self.first = Mark()

    def count(self, tokens: int, verified: int) -> None:
        """One verdict."""
        self._rounds += 1
        self._tokens += tokens
        self._verified += verified
        if self._rounds == self._lead:
            self.first = self.now()

    def now(self) -> Mark:
        """The totals."""
        cpu, wall = self._verifier.cpu_seconds(), time.monotonic()
        return Mark(self._rounds, self._tokens, self._verified, cpu, wall)


@dataclass(slots=True)
class Writer:
    """One sequence on a stream of its own."""

    call: Any
    texts: Sequence[Text]
    at: int
    number: int = 0
    written: int = 0
    hint: int = 8
    meter: Meter | None = None
    prefix: PrefixHash = field(default_factory=PrefixHash)

    @property
    def text(self) -> Text:
        """The text that it writes now."""
        return self.texts[self.at % len(self.texts)]

    async def greet(self, device: int) -> None:
        await self.call.write(hello_frame(f"device-{device}", draft_model="replayed"))
        await self._read()
        await self._open()

    async def turn_page(self, needed: int) -> None:
        """Begin another text when this one has too few tokens left."""
        if len(self.text.tokens) - self.written >= needed:
            return
        await self.call.write(close_frame(self.number))
        self.at += 1
        await self._open()

    async def run(self, arm: Arm, rounds: int) -> int:
        """So many rounds, or fewer when the text ends; returns how many."""
        for done in range(rounds):
            if self.written + 1 >= len(self.text.tokens):
                return done
            await self._round(arm)
        return rounds

    async def _open(self) -> None:
        self.number += 1
        self.written = 0
        self.prefix = PrefixHash(self.text.prompt)
        await self.call.write(open_frame(self.number, self.text.prompt))
        await self._read()

    async def _round(self, arm: Arm) -> None:
        text = self.text
        most = min(arm.draft_tokens, len(text.tokens) - self.written - 1)
        if arm.heeds_hints:
            most = min(most, self.hint)
        draft = text.drafts[self.written][:most]
        sure = text.confidences[self.written][:most] if text.confidences else ()
        message = pb.Draft(
            sequence=self.number,
            committed_length=self.written,
            prefix_hash=self.prefix.value,
            draft_tokens=draft,
            deadline_ms=DEADLINE_MS,
            draft_confidences=pack_confidences(sure),
        )
        await self.call.write(pb.ClientFrame(draft=message))
        verdict = (await self._read()).verdict
        output = (*draft[: verdict.accepted], verdict.next_token)
        end = self.written + len(output)
        if output != text.tokens[self.written : end]:
            raise ValueError(f"not the text that the target is held to, at token {self.written}")
        self.prefix.extend(output)
        self.written = end
        self.hint = verdict.max_draft_tokens_hint
        if self.meter is not None:
            self.meter.count(len(output), verdict.verified)

    async def _read(self) -> pb.ServerFrame:
        frame = await self.call.read()
        if frame is grpc.aio.EOF or frame.HasField("refused"):
            raise ConnectionError(str(frame))
        return frame


class Fleet:
    """So many sequences that are open at a verifier."""

    def __init__(self, verifier: HeldVerifier, texts: Sequence[Text]) -> None:
        options = (*CLIENT_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
        self._channel = grpc.aio.insecure_channel(verifier.address, options=options)
        self._stub = pb_grpc.VerifierStub(self._channel)
        self._verifier = verifier
        self._texts = texts
        self._writers: list[Writer] = []

    async def grow(self, load: int) -> None:
        """Open sequences until there are so many."""
        while len(self._writers) < load:
            number = len(self._writers)
            writer = Writer(self._stub.Verify(), self._texts, number)
            await writer.greet(number)
            self._writers.append(writer)

    async def window(self, arm: Arm, rounds: int) -> Window:
        """All sequences run so many rounds; nothing else happens meanwhile."""
        # At few sequences one text would say too much: each window has another one.
        few = len(self._writers) < FEW
        needed = 1000 if few else (LEAD_ROUNDS + rounds) * (min(arm.draft_tokens, 5) + 1) + 1
        await asyncio.gather(*(writer.turn_page(needed) for writer in self._writers))
        # What vLLM foretells after a prompt is answered here, and the pages are turned before time is taken.
        await asyncio.gather(*(writer.run(Arm("", 0), 1) for writer in self._writers))
        meter = Meter(self._verifier, LEAD_ROUNDS * len(self._writers))
        for writer in self._writers:
            writer.meter = meter
        steps = await self._steps()
        runs = (writer.run(arm, LEAD_ROUNDS + rounds) for writer in self._writers)
        await asyncio.gather(*runs)
        last, first = meter.now(), meter.first
        for writer in self._writers:
            writer.meter = None
        return Window(
            arm.name,
            len(self._writers),
            last.rounds - first.rounds,
            last.tokens - first.tokens,
            last.verified - first.verified,
            last.rounds / (await self._steps() - steps),
            last.cpu - first.cpu,
            last.wall - first.wall,
        )

    async def close(self) -> None:
        """Hang up."""
        for writer in self._writers:
            writer.call.cancel()
        await self._channel.close()

    async def _steps(self) -> int:
        return int((await self._stub.GetStats(pb.GetStatsRequest())).steps_total)
