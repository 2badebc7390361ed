"""Edge tests over gRPC: a link to real addresses, and what a verifier says about itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import grpc

from sled_edge.link_backoff import LinkTiming
from sled_edge.link_frames import DeviceFacts
from sled_edge.link_grpc import Credentials, GrpcDialer
from sled_edge.link_resilient import ResilientLink
from sled_edge.link_transport import Dialer
from sled_protocol.v1 import verifier_pb2 as pb
from sled_protocol.v1.verifier_pb2_grpc import VerifierStub
from sled_testkit.edge import QUICK, half


def wire_link(
    addresses: Sequence[str],
    *,
    device_id: str = "test-device",
    tokenizer_fingerprint: bytes = b"",
    credentials: Credentials | None = None,
    wrap: Callable[[Dialer], Dialer] = lambda dialer: dialer,
    timing: LinkTiming = QUICK,
) -> ResilientLink:
    """A link to verifiers on loopback; `wrap` puts trouble in between."""
    facts = DeviceFacts(device_id, tokenizer_fingerprint=tokenizer_fingerprint)
    dialer = wrap(GrpcDialer(credentials or Credentials()))
    return ResilientLink(dialer, addresses, lambda: facts, timing, uniform=half)


async def verifier_stats(address: str) -> pb.Stats:
    """What the verifier at `address` counts."""
    async with grpc.aio.insecure_channel(address) as channel:
        stats = await VerifierStub(channel).GetStats(pb.GetStatsRequest())
        if not isinstance(stats, pb.Stats):
            raise TypeError("GetStats answered something else")
        return stats


async def until_no_sequences(address: str, looks: int = 500) -> pb.Stats:
    """Ask again and again until the verifier holds no sequence; every look is a round trip.

    Raises:
        TimeoutError: it still held some after so many looks.
    """
    for _ in range(looks):
        stats = await verifier_stats(address)
        if stats.load.active_sequences == 0:
            return stats
    raise TimeoutError(f"{stats.load.active_sequences} sequences are still open")
