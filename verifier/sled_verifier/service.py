"""What all streams and calls of one replica share, and the messages that describe it. Must not
touch gRPC calls.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from sled_protocol.limits import MAX_MESSAGE_CHARACTERS
from sled_protocol.v1 import verifier_pb2 as pb
from sled_verifier import frames
from sled_verifier.auth import Door
from sled_verifier.backend import VerifierBackend
from sled_verifier.devices import DeviceRegistry
from sled_verifier.limits import Limits
from sled_verifier.metrics import Metrics
from sled_verifier.refusal import Reason, Refusal
from sled_verifier.rounds import OpenRequest, RoundVerdict
from sled_verifier.tally import DraftModelKey, Tally
from sled_verifier.tenants import Tenant, tenant_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Draining:
    """The replica is going away. `deadline` is by `time.monotonic`."""

    deadline: float
    reason: str

    def frame(self) -> pb.ServerFrame:
        """What devices are told."""
        within_ms = max(1, round((self.deadline - time.monotonic()) * 1000))
        return pb.ServerFrame(
            drain=pb.Drain(within_ms=within_ms, reason=self.reason[:MAX_MESSAGE_CHARACTERS])
        )


class Departure:
    """Whether one stream has been asked to go elsewhere, and why."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.reason = ""

    def ask(self, reason: str) -> None:
        """Ask the device of this stream to connect again."""
        self.reason = reason
        self.asked.set()


class Service:
    """One replica: a backend behind a door, with its books."""

    def __init__(
        self,
        backend: VerifierBackend,
        limits: Limits,
        door: Door,
        metrics: Metrics,
        *,
        replica: str,
        engine: str,
        tenants: Sequence[Tenant] = (),
    ) -> None:
        self.backend = backend
        self.limits = limits
        self.door = door
        self.metrics = metrics
        self.replica = replica
        self._tenants = tenants
        self.model = frames.model_message(backend.info, limits, engine)
        self.devices = DeviceRegistry(limits.max_sequences_per_device)
        self.tally = Tally()
        self.draining: Draining | None = None
        self.drain_started = asyncio.Event()
        self.open_streams = 0
        self._departures: dict[Departure, None] = {}
        self._no_streams = asyncio.Event()
        self._no_streams.set()
        self._started_at = time.monotonic()

    def stream_began(self) -> None:
        """A decoding stream was accepted, whoever it may be."""
        self.open_streams += 1
        self._no_streams.clear()

    def stream_ended(self) -> None:
        """That stream is over and holds nothing any more."""
        self.open_streams -= 1
        if self.open_streams == 0:
            self._no_streams.set()

    async def streams_ended(self) -> None:
        """Wait until there is no stream."""
        await self._no_streams.wait()

    def start_drain(self, within_seconds: float, reason: str) -> None:
        """Refuse new work and tell every device to go elsewhere; only the first call counts."""
        if self.draining is None:
            self.draining = Draining(time.monotonic() + within_seconds, reason)
            self.drain_started.set()

    def greeted(self) -> Departure:
        """A device's stream has begun in earnest; to be given to `left` when it is over."""
        departure = Departure()
        self._departures[departure] = None
        return departure

    def left(self, departure: Departure) -> None:
        """That stream is over."""
        del self._departures[departure]

    @property
    def staying_devices(self) -> int:
        """Connected devices but for those that were asked to go and have not gone yet."""
        leaving = sum(departure.asked.is_set() for departure in self._departures)
        return max(0, self.devices.connected - leaving)

    def ask_to_move(self, devices: int, reason: str) -> int:
        """Ask the devices that have been here longest to connect again; returns how many were.

        Nothing is refused meanwhile, and nobody is asked twice on one stream.
        """
        if self.draining is not None:
            return 0
        staying = (each for each in self._departures if not each.asked.is_set())
        chosen = list(islice(staying, max(0, devices)))
        for departure in chosen:
            departure.ask(reason)
        self.metrics.asked_to_move(len(chosen))
        return len(chosen)

    def of_tenant(self, request: OpenRequest) -> OpenRequest:
        """The request with what its device's tenant is given."""
        tenant = tenant_of(request.device_id, self._tenants)
        return replace(request, weight=tenant.weight, adapter=tenant.adapter)

    def check_not_draining(self) -> None:
        """Refuse new work while the replica goes away.

        Raises:
            Refusal: DRAINING.
        """
        if self.draining is not None:
            raise Refusal(
                Reason.DRAINING, f"{self.draining.reason}; resume elsewhere", retry_after_ms=100
            )

    def note_refusal(self, refusal: Refusal, device_id: str, sequence: int, *, loud: bool) -> None:
        """Count a refusal and log it: at info level when `loud`, else at debug level."""
        self.tally.refusals[refusal.reason] += 1
        self.metrics.refused(refusal.reason)
        _log.log(
            logging.INFO if loud else logging.DEBUG,
            "refused",
            extra={
                "reason": refusal.reason.label,
                "detail": refusal.message,
                "device_id": device_id,
                "sequence": sequence,
            },
        )

    def note_round(
        self, key: DraftModelKey, verdict: RoundVerdict, sent_tokens: int, draft_micros: int
    ) -> None:
        """Count a verdict on a draft of `sent_tokens` that goes to a device."""
        self.tally.round_answered(key, verdict, draft_micros)
        self.metrics.device_round(key, verdict, sent_tokens)

    def stats_message(self) -> pb.Stats:
        """The present load and all totals."""
        stats = self.backend.stats()
        tally = self.tally
        return pb.Stats(
            replica=self.replica,
            load=frames.load_message(stats.load),
            connected_devices=self.devices.connected,
            resident_sequences=stats.resident_sequences,
            evicted_sequences=stats.evicted_sequences,
            queue_capacity=self.backend.capacity().queue_capacity,
            queue_seconds_p50=stats.queue_seconds_p50,
            queue_seconds_p95=stats.queue_seconds_p95,
            step_seconds_p50=stats.step_seconds_p50,
            rounds_total=tally.rounds,
            draft_tokens_total=tally.draft_tokens,
            accepted_tokens_total=tally.accepted_tokens,
            output_tokens_total=tally.output_tokens,
            steps_total=stats.steps_total,
            prompt_tokens_total=tally.prompt_tokens,
            refusals_total=tally.refusals.total(),
            draining=self.draining is not None,
            uptime_seconds=time.monotonic() - self._started_at,
            draft_models=[
                pb.DraftModelStats(
                    draft_model=key.draft_model,
                    device_class=key.device_class,
                    revision=key.revision,
                    devices=len(model.devices),
                    rounds_total=model.rounds,
                    draft_tokens_total=model.draft_tokens,
                    accepted_tokens_total=model.accepted_tokens,
                    draft_micros_total=model.draft_micros,
                )
                for key, model in tally.draft_models.items()
            ],
        )
