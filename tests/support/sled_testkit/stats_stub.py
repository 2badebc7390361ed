"""Verifiers that answer GetStats with what a test says, where fake pods claim to be.

Why: the operator reads stats over real gRPC from the addresses of pods, and a fake node runs none.
Must not be used where a real verifier can run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import grpc

from sled_protocol.v1 import verifier_pb2 as pb
from sled_protocol.v1 import verifier_pb2_grpc

PORT = 7000
"""The port of a verifier's pod; not the stub's to choose."""
POD_CIDR = "127.77.0.0/24"
"""Pod addresses of a fake node whose pods this process can play."""


class StubVerifiers(verifier_pb2_grpc.VerifierServicer):
    """One server on every address of `listen`; `answer` may be replaced at any time."""

    def __init__(self) -> None:
        self.answer: Callable[[], pb.Stats] = pb.Stats
        self._server = grpc.server(ThreadPoolExecutor(4))
        verifier_pb2_grpc.add_VerifierServicer_to_server(self, self._server)

    def listen(self, addresses: Iterable[str]) -> None:
        """Start answering; OSError or RuntimeError when a port is taken."""
        for address in addresses:
            self._server.add_insecure_port(f"{address}:{PORT}")
        self._server.start()

    def close(self) -> None:
        """Stop answering."""
        self._server.stop(None).wait()

    def GetStats(self, request: pb.GetStatsRequest, context: grpc.ServicerContext) -> pb.Stats:
        """What the test says."""
        return self.answer()
