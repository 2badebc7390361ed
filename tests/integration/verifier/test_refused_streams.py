"""Streams that begin wrong, turn into garbage or come from nobody known; a bystander on the same
server notices nothing.
"""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from sled_protocol.v1 import verifier_pb2 as pb
from sled_testkit.verifier import running_server
from sled_testkit.verifier_bystander import (
    PROMPT,
    TARGET,
    counted,
    raw_stream,
    refusal_of,
    server_with_bystander,
    streams_left,
)
from sled_testkit.verifier_device import (
    connected,
    draft_frame,
    greeted,
    hello_frame,
    open_frame,
)
from sled_verifier.engine.fake import FakeEngine
from sled_verifier.refusal import Reason


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (open_frame(1, PROMPT), Reason.MALFORMED),
        (draft_frame(1, PROMPT, ()), Reason.MALFORMED),
        (pb.ClientFrame(), Reason.MALFORMED),
        (hello_frame(""), Reason.MALFORMED),
        (hello_frame("x" * 254), Reason.MALFORMED),
        (hello_frame("a\nb"), Reason.MALFORMED),
        (hello_frame("d", draft_model="x" * 300), Reason.MALFORMED),
        (hello_frame("d", min_revision=2, max_revision=9), Reason.UNSUPPORTED_REVISION),
        (hello_frame("d", min_revision=0, max_revision=0), Reason.UNSUPPORTED_REVISION),
        (hello_frame("d", tokenizer_fingerprint=b"other"), Reason.TOKENIZER_MISMATCH),
    ],
)
async def test_a_stream_that_begins_wrong_is_refused_and_closed(
    first: pb.ClientFrame, expected: Reason
) -> None:
    async with server_with_bystander() as server, connected(server.address) as device:
        refused = await refusal_of(device.greet(first))
        assert (refused.reason, refused.sequence) == (expected, 0)
        assert await device.call.code() != grpc.StatusCode.OK
        assert counted(server, expected) == 1


async def test_revisions_overlap_and_fingerprint_matches() -> None:
    async with server_with_bystander() as server, connected(server.address) as device:
        welcome = await device.greet(
            hello_frame(
                "d", max_revision=7, tokenizer_fingerprint=server.backend.info.tokenizer_fingerprint
            )
        )
        assert (welcome.revision, welcome.replica, welcome.model.name) == (1, "test-0", "toy")


@pytest.mark.parametrize("frame", [hello_frame(), pb.ClientFrame()])
async def test_a_frame_out_of_place_closes_the_stream(frame: pb.ClientFrame) -> None:
    async with server_with_bystander() as server, greeted(server.address) as device:
        await device.open(1, PROMPT)
        await device.send(frame)
        assert (await refusal_of(device.answer(0))).reason == Reason.MALFORMED
        assert await device.call.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert server.backend.stats().load.active_sequences <= 1


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff\xff", b"\x0a\x05abc", b"\x00"])
@pytest.mark.parametrize("after_hello", [False, True])
async def test_bytes_that_are_no_frame_close_the_stream(garbage: bytes, after_hello: bool) -> None:
    async with server_with_bystander() as server, raw_stream(server.address) as call:
        if after_hello:
            await call.write(hello_frame().SerializeToString())
            await call.read()
        await call.write(garbage)
        refused = pb.ServerFrame.FromString(await call.read()).refused
        assert (refused.reason, refused.sequence) == (Reason.MALFORMED, 0)
        assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT
        await streams_left(server, 1)


async def test_a_frame_above_the_size_limit_ends_the_stream_only() -> None:
    async with server_with_bystander() as server, raw_stream(server.address) as call:
        await call.write(hello_frame().SerializeToString())
        await call.read()
        await call.write(open_frame(1, [2**32 - 1] * 1_000_000).SerializeToString())
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()
        assert await call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        await streams_left(server, 1)


async def test_unauthorised_devices_are_refused_before_their_first_frame(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("pi-1:secret-token-of-pi-1\n*:token-of-the-operator\n")
    async with running_server(
        engine=FakeEngine(model=TARGET), auth={"tokensFile": tokens}
    ) as server:
        for token in (None, "", "wrong-but-long-enough", "secret-token-of-pi-1x"):
            async with connected(server.address, token=token) as device:
                device.call.write  # noqa: B018 - the call exists, nothing was sent on it
                frame = await device.call.read()
                assert frame.refused.reason == Reason.UNAUTHENTICATED
                assert await device.call.code() == grpc.StatusCode.UNAUTHENTICATED
        async with connected(server.address, token="secret-token-of-pi-1") as device:
            refused = await refusal_of(device.greet(hello_frame("pi-2")))
            assert refused.reason == Reason.UNAUTHENTICATED
        for token, name in (("secret-token-of-pi-1", "pi-1"), ("token-of-the-operator", "any")):
            async with connected(server.address, token=token) as device:
                await device.greet(hello_frame(name))
                await device.open(1, PROMPT)
        assert counted(server, Reason.UNAUTHENTICATED) == 5


async def test_a_withdrawn_token_opens_nothing_more(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("pi-1:secret-token-of-pi-1\n")
    async with running_server(
        engine=FakeEngine(model=TARGET), auth={"tokensFile": tokens}
    ) as server:
        async with connected(server.address, token="secret-token-of-pi-1") as device:
            await device.greet(hello_frame("pi-1"))
            await device.open(1, PROMPT)
            tokens.write_text("pi-1:another-token-of-pi-1\n")
            await device.send(open_frame(2, PROMPT))
            refused = await refusal_of(device.answer(0))
            assert refused.reason == Reason.UNAUTHENTICATED
        await streams_left(server, 0)
        async with connected(server.address, token="another-token-of-pi-1") as device:
            await device.greet(hello_frame("pi-1"))
