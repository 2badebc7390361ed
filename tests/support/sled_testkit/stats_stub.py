"""Verifiers that answer GetStats with what a test says, where fake pods claim to be.

Why: the operator reads stats over real gRPC from the addresses of pods, and a fake node runs none.
Must not be used where a real verifier can run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import grpc

from sled_protocol.v1 import verifier_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["Verifier"].full_name
PORT = 7000
"""The port of a verifier's pod; not the stub's to choose."""
_NETWORK = f"127.{64 + os.getpid() % 64}.{os.getpid() // 64 % 256}"
POD_CIDR = f"{_NETWORK}.0/24"
"""Pod addresses of a fake node whose pods this process can play, apart from those of other runs."""


def addresses() -> list[str]:
    """The first pods' addresses."""
    return [f"{_NETWORK}.{number}" for number in range(8)]


class StubVerifiers:
    """One server on every address of `listen`; `answer` may be replaced at any time."""

    def __init__(self) -> None:
        self.answer: Callable[[], pb.Stats] = pb.Stats
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        handler = grpc.unary_unary_rpc_method_handler(
            self._stats, pb.GetStatsRequest.FromString, pb.Stats.SerializeToString
        )
        service = grpc.method_handlers_generic_handler(SERVICE, {"GetStats": handler})
        self._server.add_generic_rpc_handlers((service,))

    def listen(self, hosts: Iterable[str]) -> None:
        """Start answering; RuntimeError when a port is taken."""
        for host in hosts:
            self._server.add_insecure_port(f"{host}:{PORT}")
        self._server.start()

    def close(self) -> None:
        """Stop answering."""
        self._server.stop(None).wait()

    def _stats(self, request: pb.GetStatsRequest, context: grpc.ServicerContext) -> pb.Stats:
        return self.answer()
