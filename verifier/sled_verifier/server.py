"""One replica, assembled: backend, gRPC server, health, probes; start, drain and stop in the right
order. Holds no policy.
"""

from __future__ import annotations

import asyncio
import logging
import time
from types import TracebackType

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from sled_protocol.channel import SERVER_OPTIONS
from sled_protocol.v1 import verifier_pb2 as pb
from sled_protocol.v1 import verifier_pb2_grpc as pb_grpc
from sled_verifier.auth import Door, OpenDoor, TokenFile
from sled_verifier.batched import BatchedBackend
from sled_verifier.config import VerifierConfig, split_address
from sled_verifier.engine.base import Engine
from sled_verifier.engine.factory import load_control
from sled_verifier.gpu.base import GpuReader
from sled_verifier.metrics import Metrics
from sled_verifier.openai.backend import OpenAIBackend
from sled_verifier.peers import Peers
from sled_verifier.probes import ProbeServer
from sled_verifier.refusal import ConfigError
from sled_verifier.service import Service
from sled_verifier.servicer import VerifierServicer
from sled_verifier.slots import SlotPolicy
from sled_verifier.spread import spread
from sled_verifier.tls import TlsFiles, server_credentials
from sled_verifier.vllm.backend import VllmBackend

_log = logging.getLogger(__name__)

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["Verifier"].full_name
STUCK_STEP_SECONDS = 300.0
"""A step that runs for longer has hung; liveness fails so that the process is replaced."""
STOP_GRACE_SECONDS = 1.0
"""What calls that outlive the drain (health watches, devices that do not read) get before they are
cut.
"""


class VerifierServer:
    """A running replica; use as an async context manager around a loaded engine, or a backend that
    batches by itself, which it owns and closes.

    Raises:
        ConfigError: on entering, when an address is taken or a file of `tls` or `auth` cannot be
            used.
    """

    def __init__(
        self,
        config: VerifierConfig,
        engine: Engine | VllmBackend | OpenAIBackend,
        *,
        policy: SlotPolicy | None = None,
        gpus: GpuReader | None = None,
    ) -> None:
        self._config = config
        limits = config.batching.limits()
        self.metrics = Metrics(engine.info.model_name)
        self.backend: BatchedBackend | VllmBackend | OpenAIBackend
        if isinstance(engine, VllmBackend | OpenAIBackend):
            self.backend, shape = engine, engine.info.engine
            engine.observer = self.metrics
        else:
            self.backend = BatchedBackend(
                engine,
                limits,
                policy=policy,
                control=load_control(config),
                measure_seconds=config.batching.measure_seconds,
                observer=self.metrics,
            )
            shape = f"batched/{engine.info.engine}"
        self.service = Service(
            self.backend,
            limits,
            self._door(),
            self.metrics,
            replica=config.replica,
            engine=shape,
            tenants=tuple(tenant.value() for tenant in config.tenants),
        )
        self.metrics.watch(self.backend.stats, lambda: self.service.devices.connected)
        self._gpus = gpus
        if gpus is not None:
            self.metrics.watch_gpus(gpus)
        self._health = health_aio.HealthServicer()
        self._probes = ProbeServer(
            self.metrics.registry,
            self._alive,
            self._ready,
            lambda: self.service.staying_devices,
        )
        self._spreading: asyncio.Task[None] | None = None
        self._serving = False
        self._grpc: grpc.aio.Server | None = None
        self.address = ""
        """Where devices connect, with the real port; set on entering."""
        self.metrics_address = ""

    async def __aenter__(self) -> VerifierServer:
        try:
            self._grpc = self._build_grpc()
            await self._start_probes()
            await self.backend.__aenter__()
            await self._grpc.start()
        except BaseException:
            await self._probes.stop()
            raise
        for name in ("", SERVICE_NAME):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._serving = True
        if self._config.peers is not None:
            peers = Peers(self._config.peers)
            self._spreading = asyncio.create_task(spread(self.service, peers.counts))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._serving = False
        if self._spreading is not None:
            self._spreading.cancel()
            await asyncio.wait((self._spreading,))
        await self._health.enter_graceful_shutdown()
        self.service.start_drain(0.0, "the replica stops")
        if self._grpc is not None:
            await self._grpc.stop(STOP_GRACE_SECONDS)
        await self.backend.__aexit__(kind, error, trace)
        await self._probes.stop()
        if self._gpus is not None:
            self._gpus.close()

    async def drain(self, reason: str) -> None:
        """Stop being healthy, tell every device to go, and wait until all streams ended or
        `drainSeconds` are over.
        """
        self._serving = False
        await self._health.enter_graceful_shutdown()
        seconds = self._config.drain_seconds
        _log.info("draining", extra={"streams": self.service.open_streams, "seconds": seconds})
        self.service.start_drain(seconds, reason)
        try:
            async with asyncio.timeout(seconds):
                await self.service.streams_ended()
        except TimeoutError:
            _log.warning("drain ended early", extra={"streams": self.service.open_streams})

    def _door(self) -> Door:
        auth = self._config.auth
        return OpenDoor() if auth is None else TokenFile(auth.tokens_file)

    def _build_grpc(self) -> grpc.aio.Server:
        streams = self._config.batching.max_sequences * 2 + 64
        server = grpc.aio.server(options=SERVER_OPTIONS, maximum_concurrent_rpcs=streams)
        pb_grpc.add_VerifierServicer_to_server(VerifierServicer(self.service), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        listen, tls = self._config.listen, self._config.tls
        try:
            if tls is None:
                port = server.add_insecure_port(listen)
            else:
                files = TlsFiles(tls.cert_file, tls.key_file, tls.client_ca_file)
                port = server.add_secure_port(listen, server_credentials(files))
        except RuntimeError as error:
            raise ConfigError(f"listen: cannot listen on {listen}: {error}") from error
        self.address = _with_port(listen, port)
        return server

    async def _start_probes(self) -> None:
        listen = self._config.metrics_listen
        host, port = split_address(listen)
        try:
            self.metrics_address = _with_port(listen, await self._probes.start(host, port))
        except OSError as error:
            raise ConfigError(f"metricsListen: cannot listen on {listen}: {error}") from error

    def _alive(self) -> str | None:
        if self.backend.failed.is_set():
            return "the step loop died"
        started = self.backend.step_started_at
        if started is not None and time.monotonic() - started > STUCK_STEP_SECONDS:
            return f"a step has been running for more than {STUCK_STEP_SECONDS:.0f} seconds"
        return None

    def _ready(self) -> str | None:
        return self._alive() or (None if self._serving else "not serving")


def _with_port(address: str, port: int) -> str:
    return f"{address.rpartition(':')[0]}:{port}"
