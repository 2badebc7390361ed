"""Going away politely: unhealthy first, then Drain, then the rounds in flight are answered, then
the streams end.
"""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sled_protocol.v1 import verifier_pb2 as pb
from sled_testkit.verifier import running_server
from sled_testkit.verifier_device import (
    RefusedByVerifier,
    connected,
    draft_frame,
    greeted,
    open_frame,
)
from sled_testkit.verifier_faults import GatedEngine, until
from sled_testkit.verifier_http import get
from sled_verifier.engine.fake import ToyModel
from sled_verifier.server import SERVICE_NAME, VerifierServer

TARGET = ToyModel(vocab_size=100, seed=8)
PROMPT = [1, 2, 3]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health(address: str, service: str = "") -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        return int(answer.status)


async def test_rounds_in_flight_are_answered_and_everybody_is_told() -> None:
    engine = GatedEngine(model=TARGET)
    async with running_server(engine=engine) as server:
        assert await health(server.address) == await health(server.address, SERVICE_NAME) == SERVING
        assert (await get(server.metrics_address, "/readyz"))[0] == 200
        async with greeted(server.address) as device, greeted(server.address, "idle") as idle:
            for sequence in (1, 2):
                await device.open(sequence, PROMPT)
                await device.round(sequence, PROMPT, (), [])
            # A right draft needs the engine, whatever is foretold.
            first, *draft = TARGET.greedy(PROMPT, 4)
            engine.shut()
            await device.send(draft_frame(1, PROMPT, [first], draft))
            await until(engine.entered.is_set)
            await device.send(draft_frame(2, PROMPT, [first], draft))
            await until(lambda: server.backend.stats().load.queue_depth == 1)
            draining = asyncio.create_task(server.drain("a newer version takes over"))

            for stream in (idle, device):
                drain = (await stream.answer(0)).drain
                assert drain.reason == "a newer version takes over"
                assert 0 < drain.within_ms <= 5000
            assert await health(server.address) == NOT_SERVING
            assert await health(server.address, SERVICE_NAME) == NOT_SERVING
            assert (await get(server.metrics_address, "/readyz"))[0] == 503
            assert (await get(server.metrics_address, "/healthz"))[0] == 200
            with pytest.raises(ConnectionError):
                await idle.answer(0)
            assert await idle.call.code() == grpc.StatusCode.OK

            async with connected(server.address) as late:
                with pytest.raises(RefusedByVerifier) as refusal:
                    await late.greet()
                assert refusal.value.reason == pb.REFUSAL_REASON_DRAINING
                assert await late.call.code() == grpc.StatusCode.UNAVAILABLE
            await device.send(open_frame(3, PROMPT))
            with pytest.raises(RefusedByVerifier) as refusal:
                await device.answer(3)
            assert refusal.value.reason == pb.REFUSAL_REASON_DRAINING
            await device.send(draft_frame(3, PROMPT, [first], [1]))
            with pytest.raises(RefusedByVerifier) as refusal:
                await device.answer(3)
            assert refusal.value.reason == pb.REFUSAL_REASON_DRAINING
            assert not draining.done()

            engine.gate.set()
            for sequence in (1, 2):
                verdict = (await device.answer(sequence)).verdict
                assert verdict.committed_length == 1
            with pytest.raises(ConnectionError):
                await device.answer(0)
            assert await device.call.code() == grpc.StatusCode.OK
        await draining
        assert server.service.open_streams == 0
        assert server.service.stats_message().draining


async def test_unhealthy_comes_before_drain() -> None:
    """A watcher of the health service has seen NOT_SERVING by the time any device reads Drain."""
    order: list[str] = []
    async with running_server(engine=GatedEngine(model=TARGET)) as server:
        enter = server._health.enter_graceful_shutdown
        start = server.service.start_drain

        async def entering() -> None:
            await enter()
            order.append("unhealthy")

        def starting(within_seconds: float, reason: str) -> None:
            order.append("drain")
            start(within_seconds, reason)

        server._health.enter_graceful_shutdown = entering
        server.service.start_drain = starting  # type: ignore[method-assign]
        async with greeted(server.address):
            await server.drain("going")
        assert order == ["unhealthy", "drain"]


async def test_a_drain_is_bounded_when_a_step_hangs() -> None:
    engine = GatedEngine(model=TARGET)
    async with (
        running_server(engine=engine, drainSeconds=0.05) as server,
        greeted(server.address) as device,
    ):
        await device.open(1, PROMPT)
        engine.shut()
        await device.send(draft_frame(1, PROMPT, (), [1]))
        await until(lambda: has_round(server))
        try:
            await server.drain("going")
            assert server.service.open_streams == 1
        finally:
            engine.gate.set()


def has_round(server: VerifierServer) -> bool:
    """A draft is in a step or waits for one; a step alone may be the prompt's."""
    stats = server.backend.stats()
    return stats.rounds_running + stats.load.queue_depth > 0


async def test_a_drain_without_devices_is_over_at_once() -> None:
    async with running_server() as server:
        await server.drain("going")
        await server.drain("twice")
