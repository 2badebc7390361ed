"""A verifier under test with a bystander on it: whatever a test does to the server, another device
must get its exact text throughout. Also the shorthands with which refusals are checked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from sled_protocol.v1 import verifier_pb2 as pb
from sled_testkit.verifier import running_server, total
from sled_testkit.verifier_device import GreedyText, RefusedByVerifier, greeted
from sled_testkit.verifier_faults import until
from sled_verifier.engine.fake import FakeEngine, ToyModel
from sled_verifier.refusal import Reason
from sled_verifier.server import VerifierServer

TARGET = ToyModel(vocab_size=100, seed=5)
PROMPT = [1, 2, 3, 4]
LIMITS = {"maxSequencesPerDevice": 3, "maxSequences": 8, "maxDraftTokens": 6, "maxQueue": 64}


@asynccontextmanager
async def server_with_bystander(
    engine: FakeEngine | None = None, **overrides: Any
) -> AsyncIterator[VerifierServer]:
    """A server over `TARGET` on which another device generates throughout.

    Raises:
        AssertionError: at the end, when a text of that device was not the target's own.
    """
    engine = engine or FakeEngine(model=TARGET, context_tokens=256)
    settings = {"batching": LIMITS, **overrides}
    async with (
        running_server(engine=engine, **settings) as server,
        greeted(server.address, "bystander") as device,
    ):
        stop = asyncio.Event()
        running = asyncio.create_task(_generate(device, stop))
        try:
            yield server
        finally:
            stop.set()
        await running


async def _generate(device: Any, stop: asyncio.Event) -> None:
    number = 0
    while number == 0 or not stop.is_set():
        number += 1
        text = GreedyText(TARGET, [9] * 5)
        if await text.run(device, number, 40, 4) != TARGET.greedy(text.prompt, 40):
            raise AssertionError("the bystander got a text that is not the target's own")


async def refusal_of(answer: Awaitable[Any]) -> pb.Refused:
    """The refusal that `answer` raises; it must hold a sentence.

    Raises:
        AssertionError: it raised none, or the sentence is empty or endless.
    """
    try:
        await answer
    except RefusedByVerifier as caught:
        refused = caught.refused
    else:
        raise AssertionError("nothing was refused")
    if not 0 < len(refused.message) < 300:
        raise AssertionError(f"not a sentence: {refused.message!r}")
    return refused


def counted(server: VerifierServer, reason: Reason) -> int:
    """Refusals of this reason in the metrics."""
    return total(server, "sled_refusals", reason=reason.label)


async def streams_left(server: VerifierServer, count: int) -> None:
    """Wait until so many streams are open."""
    await until(lambda: server.service.open_streams == count)


@asynccontextmanager
async def raw_stream(address: str) -> AsyncIterator[Any]:
    """A stream that sends any bytes of any size and checks nothing."""
    options = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield channel.stream_stream("/sled.v1.Verifier/Verify")()
