"""Random frames, valid, wrong and garbled, by the thousand: the server stays up, leaks nothing, and
serves exact text.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
import pytest

from sled_protocol.distribution import DraftDistribution, pack
from sled_protocol.v1 import verifier_pb2 as pb
from sled_testkit.verifier import running_server
from sled_testkit.verifier_device import GreedyText, close_frame, draft_frame, greeted, hello_frame
from sled_testkit.verifier_faults import nothing_held, until
from sled_verifier.engine.fake import FakeEngine, ToyModel
from sled_verifier.slots import SlotPolicy

TARGET = ToyModel(vocab_size=64, seed=9)
FRAMES = 300
WALKERS = 10
HASTY = SlotPolicy(keep_idle_seconds=0, patience_seconds=0, slice_seconds=0)


def sparse(rng: random.Random, token: int) -> DraftDistribution:
    ids = rng.sample(range(65 if rng.random() < 0.02 else 64), rng.randrange(1, 9))
    ids = sorted({*ids, token} if rng.random() < 0.98 else ids)
    codes = [rng.randrange(256) for _ in ids]
    return DraftDistribution(np.array(ids, np.uint32), np.array(codes, np.uint8))


def tokens(rng: random.Random, limit: int) -> list[int]:
    wild = rng.random() < 0.02
    return [rng.randrange(2**32 if wild else 64) for _ in range(rng.randrange(limit))]


class Walker:
    """Sends frames that are mostly plausible: it tracks what the server should hold and often tells
    it otherwise.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.opened: set[int] = set()
        self.in_flight: set[int] = set()
        self.confused: set[int] = set()
        self.prompts: dict[int, list[int]] = {}
        self.outputs: dict[int, list[int]] = {}
        self.drafts: dict[int, list[int]] = {}
        self.answered = asyncio.Event()

    def restart(self) -> None:
        self.opened.clear()
        self.in_flight.clear()
        self.confused.clear()

    def frame(self) -> pb.ClientFrame:
        rng = self.rng
        sequence = rng.choice([1, 2])
        if rng.random() < 0.03:
            sequence = rng.choice([0, 3, 2**64 - 1])
        if sequence in self.confused and rng.random() < 0.8:
            kind = "close"
        elif rng.random() < 0.85:
            kind = "draft" if sequence in self.opened else "open"
        else:
            kind = rng.choices(["open", "draft", "close", "hello", "none"], [4, 4, 4, 0.1, 0.1])[0]
        if kind == "open":
            return self._open(sequence)
        if kind == "draft":
            return self._draft(sequence)
        if kind == "close":
            self.opened.discard(sequence)
            self.in_flight.discard(sequence)
            self.confused.discard(sequence)
            return close_frame(sequence)
        return hello_frame() if kind == "hello" else pb.ClientFrame()

    def heard(self, frame: pb.ServerFrame) -> None:
        kind = frame.WhichOneof("frame")
        sequence = getattr(getattr(frame, kind), "sequence", 0)
        if kind == "opened":
            self.opened.add(sequence)
            self.in_flight.discard(sequence)
        if kind == "refused" and frame.refused.reason == pb.REFUSAL_REASON_UNKNOWN_SEQUENCE:
            self.opened.discard(sequence)
        if kind == "refused" and frame.refused.reason in (
            pb.REFUSAL_REASON_STALE_PREFIX,
            pb.REFUSAL_REASON_DUPLICATE_SEQUENCE,
        ):
            self.confused.add(sequence)
        if kind in ("verdict", "refused"):
            self.in_flight.discard(sequence)
        if kind == "verdict":
            # A draft that was sent out of turn is not tracked; a wrong belief shows as a stale prefix later.
            output = self.outputs.setdefault(sequence, [])
            if frame.verdict.committed_length == len(output):
                output += [
                    *self.drafts.get(sequence, [])[: frame.verdict.accepted],
                    frame.verdict.next_token,
                ]
        self.answered.set()

    async def pause(self) -> None:
        """Mostly wait for an answer while one is due, as a device would."""
        if self.in_flight and self.rng.random() < 0.8:
            self.answered.clear()
            await self.answered.wait()

    def _open(self, sequence: int) -> pb.ClientFrame:
        rng = self.rng
        prompt, output = tokens(rng, 60), tokens(rng, 10)
        if sequence not in self.opened:
            self.prompts[sequence], self.outputs[sequence] = prompt, output
        sampling = pb.Sampling(repetition_penalty=1, top_p=1, temperature=rng.choice([0, 0.8]))
        if rng.random() < 0.3:
            sampling = pb.Sampling(
                temperature=rng.choice([0, 0.7, 1.3, float("nan"), -1, 1e30]),
                repetition_penalty=rng.choice([1, 1.2, 0, float("inf")]),
                top_k=rng.choice([0, 5, 2**32 - 1]),
                top_p=rng.choice([1, 0.9, 0]),
                min_p=rng.choice([0, 0.05, 1]),
                seed=rng.randrange(2**64),
                mode=rng.choice([0, 1, 5]),
            )
        self.in_flight.add(sequence)
        message = pb.Open(
            sequence=sequence,
            prompt_tokens=prompt,
            committed_tokens=output,
            sampling=sampling,
            model="" if rng.random() < 0.9 else rng.choice(["toy", "other"]),
        )
        return pb.ClientFrame(open=message)

    def _draft(self, sequence: int) -> pb.ClientFrame:
        rng = self.rng
        draft = tokens(rng, rng.choice([1, 5, 17, 17, 40]))
        blob = b""
        if rng.random() < 0.3:
            blob = pack([sparse(rng, token) for token in draft])
        if rng.random() < 0.05:
            blob = rng.randbytes(rng.randrange(60))
        prompt, output = self.prompts.get(sequence, []), self.outputs.get(sequence, [])
        if rng.random() < 0.05:
            output = output[: rng.randrange(len(output) + 1)]
        elif sequence not in self.in_flight:
            self.drafts[sequence] = draft
        self.in_flight.add(sequence)
        frame = draft_frame(sequence, prompt, output, draft)
        frame.draft.draft_probs = blob
        frame.draft.deadline_ms = rng.choice([0, 0, 0, 0, 0, 1, 2**32 - 1])
        if rng.random() < 0.03:
            frame.draft.prefix_hash = rng.randrange(2**64)
        return frame


async def walk(address: str, number: int) -> int:
    """Send `FRAMES` frames over as many streams as it takes; returns how many streams those
    were.
    """
    walker = Walker(number)
    sent, streams = 0, 0
    async with grpc.aio.insecure_channel(address) as channel:
        while sent < FRAMES:
            streams += 1
            walker.restart()
            call: Any = channel.stream_stream("/sled.v1.Verifier/Verify")()
            listening = asyncio.create_task(listen(call, walker))
            try:
                await call.write(hello_frame(f"walker-{number}").SerializeToString())
                while sent < FRAMES and not listening.done():
                    sent += 1
                    data = walker.frame().SerializeToString()
                    if walker.rng.random() < 0.003 and data:
                        data = walker.rng.randbytes(len(data))
                    await call.write(data)
                    await walker.pause()
                    if walker.rng.random() < 0.008:
                        break
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                pass
            if walker.rng.random() < 0.5:
                call.cancel()
            else:
                await call.done_writing()
            await asyncio.wait((listening,))
    return streams


async def listen(call: Any, walker: Walker) -> None:
    try:
        while (data := await call.read()) is not grpc.aio.EOF:
            walker.heard(pb.ServerFrame.FromString(data))
    except (grpc.aio.AioRpcError, asyncio.CancelledError):
        return
    finally:
        walker.answered.set()


@pytest.mark.parametrize("seed", [1, 2])
async def test_thousands_of_random_frames(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine(model=TARGET, slots=4, context_tokens=120)
    async with running_server(engine=engine, policy=HASTY) as server:
        bystander_texts: Sequence[GreedyText] = [GreedyText(TARGET, [n + 1] * 7) for n in range(12)]

        async def bystand() -> None:
            async with greeted(server.address, "bystander") as device:
                for number, text in enumerate(bystander_texts):
                    await text.run(device, number + 1, 40, 5)

        walkers = (walk(server.address, 1000 * seed + n) for n in range(WALKERS))
        streams, _ = await asyncio.gather(asyncio.gather(*walkers), bystand())
        assert sum(streams) > WALKERS
        for text in bystander_texts:
            assert text.output == TARGET.greedy(text.prompt, 40)
        await until(lambda: nothing_held(server))
        assert not server.backend.failed.is_set()
        # under load gRPC's own poller may report that a read would have blocked
        ours = [record for record in caplog.records if record.name.startswith("sled")]
        assert [record for record in ours if record.levelno >= logging.WARNING] == []
        assert server.service.tally.rounds > 300
        kinds = server.service.tally.refusals
        assert len(kinds) >= 8, kinds
