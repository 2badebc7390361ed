"""A verifier's load and totals, by `GetStats`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from sled_protocol.channel import CLIENT_OPTIONS
from sled_protocol.v1 import verifier_pb2 as pb
from sled_protocol.v1 import verifier_pb2_grpc as pb_grpc

TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class VerifierStats:
    """What a replica says of itself."""

    devices: int
    sequences: int
    queue_depth: int
    queue_capacity: int
    step_tokens: int
    """Tokens in its last step, over all sequences."""
    steps: int
    rounds: int
    output_tokens: int
    step_seconds_p50: float
    queue_seconds_p95: float
    draining: bool


class VerifierWatch:
    """A connection to one verifier, in plain text: on this machine, or behind a tunnel."""

    def __init__(self, address: str, token_file: Path | None = None) -> None:
        self.address = address
        self._token_file = token_file
        self._channel = grpc.aio.insecure_channel(address, options=CLIENT_OPTIONS)
        self._stub = pb_grpc.VerifierStub(self._channel)

    async def read(self) -> VerifierStats | None:
        """Its stats now; None when it does not answer, or not to us."""
        try:
            reply = await self._stub.GetStats(
                pb.GetStatsRequest(), timeout=TIMEOUT_SECONDS, metadata=self._metadata()
            )
        except (grpc.RpcError, OSError):
            return None
        return _stats(reply)

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        """Read anew each time: a fleet that was started again has another token."""
        if self._token_file is None:
            return ()
        return (("authorization", f"Bearer {self._token_file.read_text('utf-8').strip()}"),)


def _stats(reply: pb.Stats) -> VerifierStats:
    return VerifierStats(
        devices=reply.connected_devices,
        sequences=reply.load.active_sequences,
        queue_depth=reply.load.queue_depth,
        queue_capacity=reply.queue_capacity,
        step_tokens=reply.load.step_tokens,
        steps=reply.steps_total,
        rounds=reply.rounds_total,
        output_tokens=reply.output_tokens_total,
        step_seconds_p50=reply.step_seconds_p50,
        queue_seconds_p95=reply.queue_seconds_p95,
        draining=reply.draining,
    )
