"""Sequences that cannot be opened, each with its typed reason; a bystander on the same server
notices nothing.
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from sled_protocol.v1 import verifier_pb2 as pb
from sled_testkit.verifier_bystander import (
    PROMPT,
    counted,
    refusal_of,
    server_with_bystander,
    streams_left,
)
from sled_testkit.verifier_device import (
    RefusedByVerifier,
    connected,
    greeted,
    open_frame,
)
from sled_verifier.refusal import Reason


def open_with(**fields: Any) -> pb.ClientFrame:
    frame = open_frame(1, PROMPT)
    for name, value in fields.items():
        setattr(frame.open.sampling, name, value)
    return frame


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (open_frame(1, []), Reason.MALFORMED),
        (open_frame(1, [100]), Reason.MALFORMED),
        (open_frame(1, [1], [2**32 - 1]), Reason.MALFORMED),
        (open_frame(1, PROMPT, model="gpt-9"), Reason.UNKNOWN_MODEL),
        (open_frame(1, PROMPT, model="x" * 500), Reason.MALFORMED),
        (open_frame(1, [1] * 256), Reason.PROMPT_TOO_LONG),
        (open_frame(1, [1] * 200_000), Reason.PROMPT_TOO_LONG),
        (open_frame(1, [1] * 200, [1] * 56), Reason.CONTEXT_FULL),
        (open_frame(1, [1], [1] * 300_000), Reason.CONTEXT_FULL),
        (open_with(temperature=math.nan), Reason.INVALID_SAMPLING),
        (open_with(temperature=math.inf), Reason.INVALID_SAMPLING),
        (open_with(temperature=-1.0), Reason.INVALID_SAMPLING),
        (open_with(temperature=0.001), Reason.INVALID_SAMPLING),
        (open_with(top_k=2**32 - 1), Reason.INVALID_SAMPLING),
        (open_with(top_p=0.0), Reason.INVALID_SAMPLING),
        (open_with(top_p=math.nan), Reason.INVALID_SAMPLING),
        (open_with(min_p=1.0), Reason.INVALID_SAMPLING),
        (open_with(repetition_penalty=0.0), Reason.INVALID_SAMPLING),
        (open_with(repetition_penalty=math.nan), Reason.INVALID_SAMPLING),
        (open_with(mode=7), Reason.INVALID_SAMPLING),
    ],
)
async def test_an_open_that_cannot_be_served(frame: pb.ClientFrame, expected: Reason) -> None:
    async with server_with_bystander() as server, greeted(server.address) as device:
        await device.send(frame)
        refused = await refusal_of(device.answer(1))
        assert (refused.reason, refused.sequence) == (expected, 1)
        assert counted(server, expected) == 1
        await device.open(1, PROMPT)
        await device.round(1, PROMPT, (), [1])


async def test_sequence_zero_cannot_be_opened() -> None:
    async with server_with_bystander() as server, greeted(server.address) as device:
        await device.send(open_frame(0, PROMPT))
        assert (await refusal_of(device.answer(0))).reason == Reason.MALFORMED


async def test_a_sequence_is_open_once() -> None:
    async with server_with_bystander() as server, greeted(server.address) as device:
        await device.open(1, PROMPT)
        refused = await refusal_of(device.open(1, PROMPT))
        assert refused.reason == Reason.DUPLICATE_SEQUENCE
        await device.round(1, PROMPT, (), [1])


async def test_a_device_has_a_limit_over_all_its_streams() -> None:
    async with (
        server_with_bystander() as server,
        greeted(server.address) as device,
        greeted(server.address) as second,
    ):
        for sequence in (1, 2):
            await device.open(sequence, PROMPT)
        await second.open(1, PROMPT)
        refused = await refusal_of(second.open(2, PROMPT))
        assert refused.reason == Reason.TOO_MANY_SEQUENCES
        assert refused.retry_after_ms > 0
        await device.send(pb.ClientFrame(close=pb.Close(sequence=1)))
        await device.open(3, PROMPT)
        async with greeted(server.address, "another") as other:
            await other.open(1, PROMPT)


async def test_a_device_has_a_limit_of_streams() -> None:
    async with server_with_bystander() as server:
        devices = [connected(server.address) for _ in range(8)]
        streams = [await device.__aenter__() for device in devices]
        for stream in streams:
            await stream.greet()
        async with connected(server.address) as ninth:
            refused = await refusal_of(ninth.greet())
            assert refused.reason == Reason.TOO_MANY_SEQUENCES
        for device in devices:
            await device.__aexit__(None, None, None)
        await streams_left(server, 1)
        async with greeted(server.address):
            pass


async def test_a_replica_has_a_limit() -> None:
    async with server_with_bystander() as server:
        opened, refusals = 0, []
        async with (
            greeted(server.address, "a") as a,
            greeted(server.address, "b") as b,
            greeted(server.address, "c") as c,
        ):
            for device in (a, b, c):
                for sequence in (1, 2, 3):
                    try:
                        await device.open(sequence, PROMPT)
                        opened += 1
                    except RefusedByVerifier as refused:
                        refusals.append(refused.reason)
        assert 7 <= opened <= 8
        assert set(refusals) == {Reason.TOO_MANY_SEQUENCES}
