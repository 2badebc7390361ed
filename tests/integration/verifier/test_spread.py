"""Devices that stay spread over the replicas: asked to connect again, served meanwhile, nothing lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from sled_testkit.verifier import running_server
from sled_testkit.verifier_device import connected, greeted
from sled_testkit.verifier_faults import until
from sled_testkit.verifier_http import get
from sled_verifier import servicer
from sled_verifier.engine.fake import FakeEngine, ToyModel
from sled_verifier.peers import Peers
from sled_verifier.server import VerifierServer
from sled_verifier.spread import REASON, spread

TARGET = ToyModel(vocab_size=100, seed=8)
PROMPT = [1, 2, 3]


@asynccontextmanager
async def replica() -> AsyncIterator[VerifierServer]:
    async with running_server(engine=FakeEngine(model=TARGET)) as server:
        yield server


async def test_a_device_that_is_asked_to_go_is_served_until_it_does() -> None:
    async with replica() as server, greeted(server.address, "a") as old:
        await old.open(1, PROMPT)
        assert server.service.ask_to_move(1, "there are others") == 1
        notice = (await old.answer(0)).drain
        assert notice.reason == "there are others"
        assert notice.within_ms == servicer.MOVE_SECONDS * 1000
        async with greeted(server.address, "a") as new:
            await old.round(1, PROMPT, (), [])
            await old.open(2, PROMPT)
            await new.open(1, PROMPT, TARGET.greedy(PROMPT, 1))
            verdict = await new.round(1, PROMPT, TARGET.greedy(PROMPT, 1), [])
            assert verdict.next_token == TARGET.greedy(PROMPT, 2)[1]
        assert not server.service.stats_message().draining


async def test_who_does_not_go_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servicer, "MOVE_SECONDS", 0.05)
    async with replica() as server, greeted(server.address, "a") as device:
        server.service.ask_to_move(1, "there are others")
        assert (await device.answer(0)).HasField("drain")
        with pytest.raises(ConnectionError):
            await device.answer(0)
        await until(lambda: server.service.open_streams == 0)


async def test_the_oldest_are_asked_first_and_nobody_twice() -> None:
    async with replica() as server, contextlib.AsyncExitStack() as stack:
        devices = [await stack.enter_async_context(greeted(server.address, name)) for name in "abc"]
        assert server.service.ask_to_move(2, "there are others") == 2
        for device in devices[:2]:
            assert (await device.answer(0)).HasField("drain")
        assert server.service.ask_to_move(5, "there are others") == 1
        assert (await devices[2].answer(0)).HasField("drain")
        assert server.service.ask_to_move(5, "there are others") == 0
        _, page = await get(server.metrics_address, "/metrics")
        assert 'sled_device_moves_total{model_name="toy"} 3.0' in page


async def test_a_draining_replica_asks_nobody() -> None:
    async with replica() as server, connected(server.address) as device:
        await device.greet()
        server.service.start_drain(5.0, "going")
        assert server.service.ask_to_move(1, "there are others") == 0


async def test_replicas_tell_each_other_how_many_devices_they_have() -> None:
    async with replica() as server, greeted(server.address, "a"), greeted(server.address, "b"):
        assert (await get(server.metrics_address, "/devices"))[1].strip() == "2"
        peers = Peers(server.metrics_address)
        assert await peers.counts() == [2]
        server._serving = False
        assert (await get(server.metrics_address, "/devices"))[0] == 503
        assert await peers.counts() == []
    assert await peers.counts() == []


async def test_a_name_that_leads_nowhere_moves_nobody() -> None:
    assert await Peers("nowhere.invalid:7001").counts() == []


async def test_one_that_answers_nonsense_or_nothing_does_not_count() -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nmany")
        writer.close()

    server = await asyncio.start_server(nonsense, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    async with server:
        assert await Peers(f"{host}:{port}").counts() == []


async def test_a_replica_with_too_many_asks_until_it_has_its_share() -> None:
    async with replica() as server, contextlib.AsyncExitStack() as stack:
        devices = [
            await stack.enter_async_context(greeted(server.address, name)) for name in "abcd"
        ]

        async def counts() -> list[int]:
            looks.append(server.service.staying_devices)
            return [looks[-1], 4 - looks[-1]]

        looks: list[int] = []
        task = asyncio.create_task(spread(server.service, counts, 0.01))
        for device in devices[:2]:
            assert (await device.answer(0)).drain.reason == REASON
        await until(lambda: looks[-3:] == [2, 2, 2])
        task.cancel()
        assert all(device.control.empty() for device in devices)
