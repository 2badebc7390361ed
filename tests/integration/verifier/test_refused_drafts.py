"""Drafts that cannot be judged, each with its typed reason; a bystander on the same server notices
nothing.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import numpy as np
import pytest

from sled_protocol.distribution import DraftDistribution, pack
from sled_protocol.v1 import verifier_pb2 as pb
from sled_testkit.verifier import running_server
from sled_testkit.verifier_bystander import (
    LIMITS,
    PROMPT,
    TARGET,
    counted,
    refusal_of,
    server_with_bystander,
)
from sled_testkit.verifier_device import (
    GreedyText,
    RefusedByVerifier,
    draft_frame,
    greeted,
)
from sled_testkit.verifier_faults import GatedEngine, until
from sled_verifier.engine.base import EngineError, StepItem
from sled_verifier.engine.fake import FakeEngine
from sled_verifier.refusal import Reason


def sparse(*ids: int) -> DraftDistribution:
    return DraftDistribution(np.array(ids, np.uint32), np.full(len(ids), 200, np.uint8))


GOOD = pack([sparse(1, 7)])


@pytest.mark.parametrize(
    ("draft", "blob", "expected"),
    [
        ([100], b"", Reason.MALFORMED),
        ([2**32 - 1], b"", Reason.MALFORMED),
        ([1] * 7, b"", Reason.DRAFT_TOO_LONG),
        ([1] * 1000, b"", Reason.DRAFT_TOO_LONG),
        ([1], b"\xff", Reason.MALFORMED),
        ([1], b"\x00", Reason.MALFORMED),
        ([1], GOOD[:-1], Reason.MALFORMED),
        ([1], GOOD + b"\x00", Reason.MALFORMED),
        ([1, 1], GOOD, Reason.MALFORMED),
        ([], GOOD, Reason.MALFORMED),
        ([2], GOOD, Reason.MALFORMED),
        ([1], pack([sparse(1, 100)]), Reason.MALFORMED),
        ([1], bytes(range(256)) * 40, Reason.MALFORMED),
        ([1], b"\xff\xff\xff\xff\x7f" + b"\x01" * 60, Reason.MALFORMED),
        ([1], struct.pack("<ff", math.nan, 1.0), Reason.MALFORMED),
    ],
)
async def test_a_draft_that_cannot_be_judged(
    draft: Sequence[int], blob: bytes, expected: Reason
) -> None:
    async with server_with_bystander() as server, greeted(server.address) as device:
        await device.open(1, PROMPT)
        refused = await refusal_of(device.round(1, PROMPT, (), draft, draft_probs=blob))
        assert (refused.reason, refused.sequence) == (expected, 1)
        assert counted(server, expected) == 1
        text = GreedyText(TARGET, PROMPT)
        assert await text.run(device, 1, 20, 4, fresh=False) == TARGET.greedy(PROMPT, 20)


async def test_a_draft_of_an_unknown_sequence() -> None:
    async with server_with_bystander() as server, greeted(server.address) as device:
        refused = await refusal_of(device.round(5, PROMPT, [1, 2], [1]))
        assert refused.reason == Reason.UNKNOWN_SEQUENCE
        assert (refused.sequence, refused.committed_length) == (5, 2)
        await device.open(5, PROMPT)
        await device.send(pb.ClientFrame(close=pb.Close(sequence=5)))
        refused = await refusal_of(device.round(5, PROMPT, (), [1]))
        assert refused.reason == Reason.UNKNOWN_SEQUENCE


async def test_a_context_that_is_full() -> None:
    prompt = [1] * 240
    text = GreedyText(TARGET, prompt)
    async with server_with_bystander() as server, greeted(server.address) as device:
        await text.run(device, 1, 12, 4)
        await device.open(2, prompt, text.output)
        committed = len(text.output)
        room = 256 - 240 - committed - 1
        refused = await refusal_of(device.round(2, prompt, text.output, [1] * (room + 1)))
        assert refused.reason == Reason.CONTEXT_FULL
        verdict = await device.round(2, prompt, text.output, [1] * room)
        assert verdict.next_token == TARGET.greedy([*prompt, *text.output], 1)[0]


async def test_a_second_draft_in_flight_and_a_full_queue_and_a_missed_deadline() -> None:
    engine = GatedEngine(model=TARGET, context_tokens=256)
    limits = {**LIMITS, "maxQueue": 2}
    async with running_server(engine=engine, batching=limits) as server:  # noqa: SIM117 - one line too long
        async with greeted(server.address) as device, greeted(server.address, "other") as other:
            for sequence in (1, 2, 3):
                await device.open(sequence, PROMPT)
            await other.open(1, PROMPT)
            await other.round(1, PROMPT, (), [])
            await device.round(3, PROMPT, (), [])
            # A right draft needs the engine, whatever is foretold.
            first, *draft = right = TARGET.greedy(PROMPT, 4)
            engine.shut()
            await other.send(draft_frame(1, PROMPT, [first], draft))
            await until(engine.entered.is_set)
            await device.send(draft_frame(1, PROMPT, (), [1], deadline_ms=50))
            await device.send(draft_frame(1, PROMPT, (), [2]))
            refused = await refusal_of(device.answer(1))
            assert refused.reason == Reason.ROUND_IN_FLIGHT
            await device.send(draft_frame(2, PROMPT, (), [1]))
            await device.send(draft_frame(3, PROMPT, [first], draft))
            refused = await refusal_of(device.answer(3))
            assert refused.reason == Reason.QUEUE_FULL
            assert refused.retry_after_ms > 0
            refused = await refusal_of(device.answer(1))
            assert refused.reason == Reason.DEADLINE_EXCEEDED
            engine.gate.set()
            for stream, sequence, output in ((other, 1, right), (device, 2, [])):
                verdict = (await stream.answer(sequence)).verdict
                assert verdict.next_token == TARGET.greedy([*PROMPT, *output], 1)[0]
            text = GreedyText(TARGET, PROMPT)
            assert await text.run(device, 1, 20, 4, fresh=False) == TARGET.greedy(PROMPT, 20)


async def test_an_engine_failure_refuses_its_rounds_and_nobody_else() -> None:
    failures: list[int] = []

    def fail_on_poison(items: Sequence[StepItem]) -> None:
        slots = tuple(item.slot for item in items if 66 in item.tokens)
        if slots and len(failures) < 3:
            failures.append(len(items))
            raise EngineError("no memory for this sequence", slots)

    engine = FakeEngine(model=TARGET, context_tokens=256, before_step=fail_on_poison)
    async with server_with_bystander(engine) as server, greeted(server.address) as device:
        prompt = [1, 2, 66, 3]
        await device.open(1, prompt)
        refusals: list[pb.Refused] = []
        text = GreedyText(TARGET, prompt)
        while len(text.output) < 20:
            draft = text.draft(4)
            try:
                verdict = await device.round(1, prompt, text.output, draft)
            except RefusedByVerifier as refusal:
                refusals.append(refusal.refused)
                continue
            text.output += [*draft[: verdict.accepted], verdict.next_token]
        assert text.output[:20] == TARGET.greedy(prompt, 20)
        assert refusals
        for refused in refusals:
            assert refused.reason == Reason.INTERNAL
            assert refused.retry_after_ms > 0
        assert server.backend.stats().engine_failures_total == 3


async def test_a_defect_of_the_engine_is_refused_as_internal_and_ends_readiness() -> None:
    def explode(items: Sequence[StepItem]) -> None:
        raise RuntimeError("a defect")

    engine = FakeEngine(model=TARGET, before_step=explode)
    async with running_server(engine=engine) as server, greeted(server.address) as device:
        await device.open(1, [1])
        refused = await refusal_of(device.round(1, [1], (), []))
        assert refused.reason == Reason.INTERNAL
        assert server.backend.failed.is_set()
