"""TLS, mutual TLS, certificates and tokens that change while the server runs, and who may call the
unary methods.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from sled_protocol.v1 import verifier_pb2 as pb
from sled_protocol.v1 import verifier_pb2_grpc as pb_grpc
from sled_testkit.verifier import running_server
from sled_testkit.verifier_certificates import Authority
from sled_testkit.verifier_device import (
    GreedyText,
    RefusedByVerifier,
    connected,
    greeted,
    hello_frame,
)
from sled_verifier.engine.fake import FakeEngine, ToyModel

TARGET = ToyModel(vocab_size=100, seed=10)


def tls_settings(folder: Path, authority: Authority, client_ca: bytes | None = None) -> Any:
    cert_file, key_file = authority.issue("verifier").write(folder, "verifier")
    settings = {"certFile": cert_file, "keyFile": key_file}
    if client_ca is not None:
        (folder / "clients.crt").write_bytes(client_ca)
        settings["clientCaFile"] = folder / "clients.crt"
    return settings


async def text_over(address: str, credentials: grpc.ChannelCredentials) -> None:
    async with greeted(address, credentials=credentials) as device:
        text = GreedyText(TARGET, [1, 2, 3])
        assert await text.run(device, 1, 20, 4) == TARGET.greedy([1, 2, 3], 20)


async def refuses(address: str, credentials: grpc.ChannelCredentials | None) -> None:
    """The handshake fails, so that not even a refusal comes back."""
    async with connected(address, credentials=credentials) as device:
        assert await device.call.code() == grpc.StatusCode.UNAVAILABLE


async def test_tls_and_nothing_less(tmp_path: Path) -> None:
    ours, others = Authority("ours"), Authority("others")
    engine = FakeEngine(model=TARGET)
    async with running_server(engine=engine, tls=tls_settings(tmp_path, ours)) as server:
        await text_over(server.address, grpc.ssl_channel_credentials(ours.pem))
        await refuses(server.address, None)
        await refuses(server.address, grpc.ssl_channel_credentials(others.pem))


async def test_mutual_tls(tmp_path: Path) -> None:
    ours, clients, others = Authority("ours"), Authority("clients"), Authority("others")
    good, bad = clients.issue("pi-1"), others.issue("pi-1")
    tls = tls_settings(tmp_path, ours, clients.pem)
    async with running_server(engine=FakeEngine(model=TARGET), tls=tls) as server:
        known = grpc.ssl_channel_credentials(ours.pem, good.key, good.certificate)
        await text_over(server.address, known)
        await refuses(server.address, grpc.ssl_channel_credentials(ours.pem))
        await refuses(
            server.address, grpc.ssl_channel_credentials(ours.pem, bad.key, bad.certificate)
        )


async def test_a_renewed_certificate_is_used_without_a_restart(tmp_path: Path) -> None:
    old, new = Authority("old"), Authority("new")
    tls = tls_settings(tmp_path, old)
    async with running_server(engine=FakeEngine(model=TARGET), tls=tls) as server:
        trust_old, trust_new = map(grpc.ssl_channel_credentials, (old.pem, new.pem))
        async with greeted(server.address, "long-lived", credentials=trust_old) as device:
            await device.open(1, [1])
            new.issue("verifier").write(tmp_path, "verifier")
            await text_over(server.address, trust_new)
            await refuses(server.address, trust_old)
            verdict = await device.round(1, [1], (), [])
            assert verdict.next_token == TARGET.greedy([1], 1)[0]
            (tmp_path / "verifier.crt").unlink()
            await text_over(server.address, trust_new)


async def test_unary_calls_need_a_token_too(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("*:token-of-the-operator\n")
    engine = FakeEngine(model=TARGET)
    async with (
        running_server(engine=engine, auth={"tokensFile": tokens}) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = pb_grpc.VerifierStub(channel)
        unary = ((stub.GetModel, pb.GetModelRequest()), (stub.GetStats, pb.GetStatsRequest()))
        for header in ("Bearer wrong-but-long-enough", "Basic token-of-the-operator", "Bearer"):
            for method, request in unary:
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await method(request, metadata=(("authorization", header),))
                assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
                assert "token-of" not in str(error.value.details())
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.GetTokenizer(pb.GetTokenizerRequest()).read()
        assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
        good = (("authorization", "Bearer token-of-the-operator"),)
        assert (await stub.GetModel(pb.GetModelRequest(), metadata=good)).name == "toy"
        assert (await stub.GetStats(pb.GetStatsRequest(), metadata=good)).replica == "test-0"
        call = stub.GetTokenizer(pb.GetTokenizerRequest(), metadata=good)
        assert len([chunk async for chunk in call]) == 1


async def test_tokens_are_in_no_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    tokens = tmp_path / "tokens"
    tokens.write_text("pi-1:valid-secret-token\n")
    settings = {"auth": {"tokensFile": tokens}}
    async with running_server(engine=FakeEngine(model=TARGET), **settings) as server:
        for token in ("valid-secret-token", "wrong-secret-token"):
            async with connected(server.address, token=token) as device:
                with pytest.raises(RefusedByVerifier):
                    await device.greet(pb.ClientFrame())
        tokens.write_text("pi-1:short\n")
        async with connected(server.address, token="valid-secret-token") as device:
            await device.greet(hello_frame("pi-1"))
    lines = [str(vars(record)) for record in caplog.records]
    assert any("unauthenticated" in line for line in lines)
    assert any("old ones stay" in line for line in lines)
    assert not any("secret-token" in line or "short\n" in line for line in lines)
