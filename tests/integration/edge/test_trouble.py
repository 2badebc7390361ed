"""A real verifier that dies, drains, refuses or is not who it should be."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml

from sled_edge.config import OfflinePolicy, TlsConfig
from sled_edge.drafter.fake import FakeDrafter
from sled_edge.drafter.ngram import NgramDrafter
from sled_edge.generation import GenerationError, GenerationRequest
from sled_edge.link import Link
from sled_edge.link_grpc import Credentials
from sled_speculation.sampling import SamplingParams
from sled_testkit.cluster_certificates import Authority
from sled_testkit.edge import (
    IMPATIENT,
    QUICK,
    QUICK_OFFLINE,
    collect,
    fixed,
    running_loop,
    settings,
    until,
)
from sled_testkit.edge_wire import until_no_sequences, verifier_stats, wire_link
from sled_testkit.verifier import running_server, running_verifier
from sled_verifier.engine.fake import FakeEngine, ToyModel

PROMPT = (72, 101, 108, 108, 111)
GREEDY = SamplingParams()
MODEL = ToyModel()
TOKEN = "a-token-of-sufficient-length"


def _drafter() -> FakeDrafter:
    return FakeDrafter(MODEL.logits, accuracy=0.8)


async def _until_connected(link: Link) -> None:
    await until(lambda: link.state().target is not None, looks=6000, pause_seconds=0.005)


async def _until_trouble(link: Link, reason: str) -> str:
    def seen() -> bool:
        trouble = link.state().trouble
        return trouble is not None and trouble.reason == reason

    await until(seen, looks=6000, pause_seconds=0.005)
    return str(link.state().trouble)


@asynccontextmanager
async def _process(config: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sled_verifier", "--config", str(config),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        if process.stdout is None or b"ready" not in await process.stdout.readline():
            raise RuntimeError("the verifier does not start")
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    if not isinstance(port, int):
        raise TypeError("no port")
    return port


async def test_a_verifier_process_killed_in_the_middle_and_started_again(tmp_path: Path) -> None:
    address = f"127.0.0.1:{_free_port()}"
    config = tmp_path / "verifier.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "listen": address,
                "metricsListen": "127.0.0.1:0",
                "model": {"name": "toy"},
                "engine": {"kind": "fake"},
            }
        )
    )
    tokens: list[int] = []
    async with running_loop(wire_link([address]), _drafter(), lengths=fixed(3)) as loop:
        request = GenerationRequest(PROMPT, 60, GREEDY)
        async with _process(config) as first:
            text = loop.generate(request)
            async for delta in text:
                tokens.extend(delta.tokens)
                if len(tokens) > 20:
                    break
            first.send_signal(signal.SIGKILL)
            await first.wait()
        async with _process(config):
            async for delta in text:
                tokens.extend(delta.tokens)
    assert tokens == MODEL.greedy(PROMPT, 60)


async def test_drain_moves_every_generation_to_the_other_replica() -> None:
    requests = [GenerationRequest((n, 7), 120, GREEDY) for n in range(1, 5)]
    async with running_server(replica="a") as first, running_verifier(replica="b") as second:
        link = wire_link([first.address, second])
        async with running_loop(link, _drafter(), lengths=fixed(2)) as loop:
            work = asyncio.gather(*(collect(loop, request) for request in requests))
            while (await verifier_stats(first.address)).rounds_total < 20:
                pass
            await first.drain("the test says so")
            texts = await work
            state = link.state()
            assert state.target is not None
            assert state.target.replica == "b"
            assert state.connections == 2
        assert (await verifier_stats(second)).rounds_total > 0
    for request, text in zip(requests, texts, strict=True):
        assert text.tokens == MODEL.greedy(request.prompt_tokens, 120)


async def test_a_device_that_is_asked_to_connect_again_loses_nothing() -> None:
    requests = [GenerationRequest((n, 7), 120, GREEDY) for n in range(1, 5)]
    async with running_server(replica="a") as first, running_server(replica="b") as second:
        link = wire_link([first.address, second.address])
        async with running_loop(link, _drafter(), lengths=fixed(2)) as loop:
            work = asyncio.gather(*(collect(loop, request) for request in requests))
            for here, there in ((first, second), (second, first)):
                before = there.service.tally.rounds
                await until(lambda: here.service.tally.rounds > 20)  # noqa: B023
                assert here.service.ask_to_move(1, "others have fewer") == 1
                await until(lambda: there.service.tally.rounds > before)  # noqa: B023
                await until(lambda: here.service.open_streams == 0)  # noqa: B023
            texts = await work
            assert link.state().connections == 3
    for request, text in zip(requests, texts, strict=True):
        assert text.tokens == MODEL.greedy(request.prompt_tokens, 120)


async def test_closing_in_the_middle_frees_the_verifiers_sequence() -> None:
    drafter = _drafter()
    async with running_verifier() as address:
        async with running_loop(wire_link([address]), drafter, lengths=fixed(3)) as loop:
            text = loop.generate(GenerationRequest(PROMPT, 2000, GREEDY))
            await anext(text)
            assert (await verifier_stats(address)).load.active_sequences == 1
            await text.aclose()
            # The stream is still up: the sequence was closed by itself.
            stats = await until_no_sequences(address)
            assert stats.connected_devices == 1
        assert drafter.known_sequences == set()


async def test_cancelling_a_round_in_flight_frees_the_verifiers_sequence() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()
    loop_of_test = asyncio.get_running_loop()

    def before_step(_items: object) -> None:
        loop_of_test.call_soon_threadsafe(entered.set)
        asyncio.run_coroutine_threadsafe(leave.wait(), loop_of_test).result()

    engine = FakeEngine(before_step=before_step)
    async with (
        running_verifier(engine=engine) as address,
        running_loop(wire_link([address]), _drafter()) as loop,
    ):
        task = asyncio.create_task(collect(loop, GenerationRequest(PROMPT, 50, GREEDY)))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        leave.set()
        await until_no_sequences(address)


async def test_a_vocabulary_that_is_not_the_targets_is_refused_with_a_sentence() -> None:
    async with running_verifier() as address:
        link = wire_link([address], tokenizer_fingerprint=b"x" * 32)
        alone = settings(policy=OfflinePolicy.DRAFT_ONLY)
        async with running_loop(link, _drafter(), alone) as loop:
            assert "vocabulary" in await _until_trouble(link, "tokenizer_mismatch")
            assert not loop.ready()
            with pytest.raises(GenerationError) as error:
                await collect(loop, GenerationRequest(PROMPT, 5, GREEDY))
            assert error.value.reason == "tokenizer_mismatch"


async def test_the_token_is_read_again_at_every_attempt(tmp_path: Path) -> None:
    tokens, token = tmp_path / "tokens", tmp_path / "token"
    tokens.write_text(f"test-device:{TOKEN}\n")
    token.write_text("not-the-right-token-at-all\n")
    async with running_verifier(auth={"tokensFile": str(tokens)}) as address:
        link = wire_link([address], credentials=Credentials(token_file=token))
        impatient = settings(offline=IMPATIENT)
        async with running_loop(link, NgramDrafter(), impatient) as loop:
            await _until_trouble(link, "unauthenticated")
            with pytest.raises(GenerationError) as error:
                await collect(loop, GenerationRequest(PROMPT, 5, GREEDY))
            assert error.value.reason == "unauthenticated"
            token.write_text(f"{TOKEN}\n")
            await _until_connected(link)
            text = await collect(loop, GenerationRequest(PROMPT, 5, GREEDY))
    assert text.tokens == MODEL.greedy(PROMPT, 5)


async def test_tls_with_a_client_certificate_and_another_server_name(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = authority.server("verifier", ["verifier.example"], [])
    client = authority.client("device")
    tls = {
        "certFile": str(server.certificate),
        "keyFile": str(server.key),
        "clientCaFile": str(authority.certificate),
    }
    ours = TlsConfig(
        ca_file=authority.certificate,
        cert_file=client.certificate,
        key_file=client.key,
        server_name="verifier.example",
    )
    async with running_verifier(tls=tls) as address:
        async with running_loop(
            wire_link([address], credentials=Credentials(tls=ours)), NgramDrafter()
        ) as loop:
            text = await collect(loop, GenerationRequest(PROMPT, 9, GREEDY))
        assert text.tokens == MODEL.greedy(PROMPT, 9)
        stranger = TlsConfig(ca_file=authority.certificate, server_name="verifier.example")
        link = wire_link([address], credentials=Credentials(tls=stranger))
        async with running_loop(link, NgramDrafter()) as loop:
            await _until_trouble(link, "unavailable")
            assert not loop.ready()


async def test_draft_only_text_is_marked_and_verified_decoding_returns_by_itself() -> None:
    port = _free_port()
    listen = f"127.0.0.1:{port}"
    link = wire_link([listen])
    alone = settings(policy=OfflinePolicy.DRAFT_ONLY, offline=QUICK_OFFLINE)
    request = GenerationRequest(PROMPT, 400, GREEDY)
    async with running_loop(link, FakeDrafter(MODEL.logits, accuracy=0.5), alone) as loop:
        async with running_verifier(listen=listen):
            await _until_connected(link)
            text = loop.generate(request)
            deltas = [await anext(text), await anext(text)]
        while deltas[-1].verified:
            deltas.append(await anext(text))
        fresh = await collect(loop, GenerationRequest(PROMPT, 6, GREEDY))
        assert fresh.verified == [False] * 6
        async with running_verifier(listen=listen):
            await _until_connected(link)
            while not deltas[-1].verified:
                deltas.append(await anext(text))
            alone_tokens = [t for delta in deltas for t in delta.tokens]
            async for delta in text:
                deltas.append(delta)
            again = await collect(loop, GenerationRequest(PROMPT, 6, GREEDY))
    assert again.verified == [True] * 6
    assert again.tokens == MODEL.greedy(PROMPT, 6)
    marks = [delta.verified for delta in deltas if delta.tokens]
    first_unverified, last_unverified = (
        marks.index(False),
        len(marks) - 1 - marks[::-1].index(False),
    )
    assert all(marks[:first_unverified])
    assert not any(marks[first_unverified : last_unverified + 1])
    tokens = [t for delta in deltas for t in delta.tokens]
    # From its return on, the target continues exactly what is there, unverified text included.
    rest = tokens[len(alone_tokens) :]
    assert rest == MODEL.greedy([*PROMPT, *alone_tokens], len(rest))


async def test_bounded_patience_ends_in_a_typed_error() -> None:
    link = wire_link([f"127.0.0.1:{_free_port()}"], timing=QUICK)
    async with running_loop(link, NgramDrafter(), settings(offline=IMPATIENT)) as loop:
        assert not loop.ready()
        with pytest.raises(GenerationError) as error:
            await collect(loop, GenerationRequest(PROMPT, 5, GREEDY))
        assert error.value.reason == "unavailable"
        assert error.value.retry_after_seconds >= 1
