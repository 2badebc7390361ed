"""Asks the verifiers how they are, again and again, for the autoscaler and for measured
profiles."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from sled_operator.autoscaler.stats import Access, StatsReader, to_stats
from sled_operator.informer import Key
from sled_operator.measure import Counted, Counts
from sled_operator.resources.verifier_config import GRPC_PORT
from sled_operator.world import SERVER, Telemetry, WorkKey, World
from sled_protocol.v1 import verifier_pb2

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Collector:
    """One round over all servers every `period_seconds`."""

    world: World
    reader: StatsReader
    access: dict[Key, Access]
    look: Callable[[WorkKey], None]
    period_seconds: float
    _asked: dict[Key, set[str]] = field(default_factory=dict)
    _silent: dict[Key, set[str]] = field(default_factory=dict)

    async def run(self) -> None:
        """Collect until cancelled."""
        while True:
            await self.collect()
            await asyncio.sleep(self.period_seconds)

    async def collect(self) -> None:
        """One round: every replica of every server that may be asked."""
        await asyncio.gather(*(self._server(key) for key in list(self.world.servers)))

    async def _server(self, key: Key) -> None:
        access = self.access.get(key)
        pods = {
            pod.name: f"{pod.address}:{GRPC_PORT}"
            for pod in self.world.pods_of(SERVER, key)
            if pod.ready and pod.address and not pod.terminating
        }
        if access is None:
            return
        answers = await self.reader.read(list(pods.values()), access)
        if key not in self.world.servers:
            return
        telemetry = self.world.telemetry.setdefault(key, Telemetry())
        telemetry.answers = [to_stats(answer) for answer in answers]
        for name, answer in zip(pods, answers, strict=True):
            if answer is not None:
                telemetry.ledger.take(name, counters(answer))
        self._say(key, {name for name, a in zip(pods, answers, strict=True) if a is None})
        gone = self._asked.get(key, set()) - pods.keys()
        telemetry.ledger.forget(gone)
        self._asked[key] = set(pods)
        server = self.world.servers[key]
        if server.spec.autoscaling.mode == "Builtin":
            self.look((SERVER, *key))

    def _say(self, key: Key, silent: set[str]) -> None:
        """Log which replicas are silent, once for each change."""
        if silent != self._silent.get(key, set()):
            fields = {"server": "/".join(key), "silent": ", ".join(sorted(silent))}
            log.warning("%d replicas give no stats", len(silent), extra=fields)
        self._silent[key] = silent


def counters(answer: verifier_pb2.Stats) -> dict[Counted, Counts]:
    """What a verifier counted per draft model, device class and revision."""
    return {
        Counted(each.draft_model, each.device_class, each.revision): (
            each.rounds_total,
            each.draft_tokens_total,
            each.accepted_tokens_total,
            each.draft_micros_total,
        )
        for each in answer.draft_models
    }
