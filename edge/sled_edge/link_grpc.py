"""Frames over gRPC: channel, TLS, bearer token, byte limits. Must not retry; `link_resilient` decides about that."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import grpc

from sled_edge.config import TlsConfig
from sled_edge.link_transport import StreamEnded
from sled_protocol.channel import CLIENT_OPTIONS
from sled_protocol.limits import MAX_TOKEN_BYTES, MAX_TOKENIZER_BYTES
from sled_protocol.v1 import verifier_pb2 as pb
from sled_protocol.v1.verifier_pb2_grpc import VerifierStub

TOKENIZER_SECONDS = 120.0

_Call = grpc.aio.StreamStreamCall[pb.ClientFrame, pb.ServerFrame]
_REASONS = {
    grpc.StatusCode.UNAUTHENTICATED: "unauthenticated",
    grpc.StatusCode.PERMISSION_DENIED: "unauthenticated",
    grpc.StatusCode.INTERNAL: "internal",
    grpc.StatusCode.UNKNOWN: "internal",
}
_OPTIONS: tuple[tuple[str, int | str], ...] = (
    *CLIENT_OPTIONS,
    # Retries and back-off are the link's own: they must know about sequences.
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who to trust and who to be; files are read at every dial, so rotated ones are picked up."""

    tls: TlsConfig | None = None
    token_file: Path | None = None

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The `authorization` entry, if a token is configured.

        Raises:
            StreamEnded: the token file cannot be used.
        """
        if self.token_file is None:
            return ()
        token = _read(self.token_file, MAX_TOKEN_BYTES).decode("utf-8", "replace").strip()
        if not token or not token.isascii() or not token.isprintable():
            raise StreamEnded("unauthenticated", f"{self.token_file} holds no usable token")
        return (("authorization", f"Bearer {token}"),)

    def channel(self, endpoint: str) -> grpc.aio.Channel:
        """A fresh channel, TLS if configured.

        Raises:
            StreamEnded: a certificate file cannot be read.
        """
        options = list(_OPTIONS)
        if self.tls is None:
            return grpc.aio.insecure_channel(endpoint, options=options)
        if self.tls.server_name is not None:
            options.append(("grpc.ssl_target_name_override", self.tls.server_name))
        credentials = grpc.ssl_channel_credentials(
            _optional(self.tls.ca_file),
            _optional(self.tls.key_file),
            _optional(self.tls.cert_file),
        )
        return grpc.aio.secure_channel(endpoint, credentials, options=options)


class GrpcFrameStream:
    """One `Verify` call on a channel of its own."""

    def __init__(self, channel: grpc.aio.Channel, call: _Call) -> None:
        self._channel = channel
        self._call = call
        self._closed = False

    async def send(self, frame: pb.ClientFrame) -> None:
        """See `FrameStream.send`."""
        try:
            await self._call.write(frame)
        except (grpc.RpcError, asyncio.InvalidStateError) as error:
            raise await self._ended(error) from error

    async def receive(self) -> pb.ServerFrame:
        """See `FrameStream.receive`."""
        try:
            frame = await self._call.read()
        except (grpc.RpcError, asyncio.InvalidStateError) as error:
            raise await self._ended(error) from error
        if not isinstance(frame, pb.ServerFrame):
            raise StreamEnded("unavailable", "the verifier ended the stream")
        return frame

    async def close(self) -> None:
        """See `FrameStream.close`."""
        if not self._closed:
            self._closed = True
            self._call.cancel()
            await self._channel.close(None)

    async def _ended(self, error: Exception) -> StreamEnded:
        if isinstance(error, grpc.aio.AioRpcError):
            return _from_rpc(error)
        if self._call.done() and not self._call.cancelled():
            code, details = await self._call.code(), await self._call.details()
            return StreamEnded(_REASONS.get(code, "unavailable"), _say(code, details))
        return StreamEnded("unavailable", "the stream is closed")


class GrpcDialer:
    """Opens `Verify` streams; satisfies `sled_edge.link_transport.Dialer`."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    async def dial(self, endpoint: str) -> GrpcFrameStream:
        """See `Dialer.dial`; the connection itself is made while the handshake is sent."""
        metadata = self._credentials.metadata()
        channel = self._credentials.channel(endpoint)
        call = VerifierStub(channel).Verify(metadata=metadata)
        return GrpcFrameStream(channel, call)

    async def tokenizer(self, endpoint: str) -> bytes:
        """See `Dialer.tokenizer`."""
        metadata = self._credentials.metadata()
        content = bytearray()
        total = 0
        async with self._credentials.channel(endpoint) as channel:
            call = VerifierStub(channel).GetTokenizer(
                pb.GetTokenizerRequest(), metadata=metadata, timeout=TOKENIZER_SECONDS
            )
            try:
                async for chunk in call:
                    total = chunk.total_bytes
                    content += chunk.data
                    if max(total, len(content)) > MAX_TOKENIZER_BYTES:
                        raise StreamEnded("malformed", "the verifier's tokenizer is too large")
            except grpc.aio.AioRpcError as error:
                raise _from_rpc(error) from error
        if not content or len(content) != total:
            raise StreamEnded("unavailable", "the verifier's tokenizer arrived incomplete")
        return bytes(content)


def _from_rpc(error: grpc.aio.AioRpcError) -> StreamEnded:
    code = error.code()
    return StreamEnded(_REASONS.get(code, "unavailable"), _say(code, error.details()))


def _say(code: grpc.StatusCode, details: str | None) -> str:
    return f"{code.name.lower()}: {' '.join((details or 'no details').split())[:300]}"


def _optional(path: Path | None) -> bytes | None:
    return None if path is None else _read(path, 1_000_000)


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise StreamEnded("unauthenticated", f"cannot read {path}: {error.strerror}") from error
    if len(content) > max_bytes:
        raise StreamEnded("unauthenticated", f"{path} is larger than {max_bytes} bytes")
    return content
