"""Reads a verifier's own stats over gRPC. Must not decide anything; a replica that does not answer
is None."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import grpc

from sled_operator.autoscaler.sample import Stats
from sled_protocol.v1 import verifier_pb2, verifier_pb2_grpc

TIMEOUT_SECONDS = 3.0
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Access:
    """How to talk to the replicas of one server. The token never shows in a repr."""

    ca: bytes | None = None
    """None = plain text."""
    server_name: str | None = None
    token: str | None = field(default=None, repr=False)


class StatsReader(Protocol):
    """Asks replicas how they are."""

    async def read(
        self, addresses: Sequence[str], access: Access
    ) -> list[verifier_pb2.Stats | None]:
        """One answer per `host:port`, in order; None where there was none in time."""
        ...


def to_stats(answer: verifier_pb2.Stats | None) -> Stats | None:
    """The part that the autoscaler looks at."""
    if answer is None:
        return None
    return Stats(
        answer.load.queue_depth,
        answer.load.active_sequences,
        answer.connected_devices,
        answer.draining,
    )


class GrpcStats:
    """The real reader: a short connection per replica, all at once, three seconds at most."""

    async def read(
        self, addresses: Sequence[str], access: Access
    ) -> list[verifier_pb2.Stats | None]:
        """See StatsReader."""
        return list(await asyncio.gather(*(self._one(address, access) for address in addresses)))

    async def _one(self, address: str, access: Access) -> verifier_pb2.Stats | None:
        metadata = (("authorization", f"Bearer {access.token}"),) if access.token else ()
        async with _channel(address, access) as channel:
            stub = verifier_pb2_grpc.VerifierStub(channel)
            try:
                return await stub.GetStats(
                    verifier_pb2.GetStatsRequest(), metadata=metadata, timeout=TIMEOUT_SECONDS
                )
            except grpc.aio.AioRpcError as error:
                fields = {"address": address, "reason": error.code().name}
                log.debug("a verifier gave no stats", extra=fields)
                return None


def _channel(address: str, access: Access) -> grpc.aio.Channel:
    if access.ca is None:
        return grpc.aio.insecure_channel(address)
    options = [("grpc.ssl_target_name_override", access.server_name)] if access.server_name else []
    return grpc.aio.secure_channel(
        address, grpc.ssl_channel_credentials(access.ca), options=options
    )


@dataclass(slots=True)
class FakeStats:
    """A reader for tests: answers what `answers` holds, None for others."""

    answers: dict[str, verifier_pb2.Stats] = field(default_factory=dict)

    async def read(
        self, addresses: Sequence[str], access: Access
    ) -> list[verifier_pb2.Stats | None]:
        """See StatsReader."""
        return [self.answers.get(address) for address in addresses]
