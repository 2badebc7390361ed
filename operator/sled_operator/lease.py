"""One operator at a time: a coordination.k8s.io Lease, as Kubernetes' own controllers use it.

The holder renews every `RENEW_SECONDS`. It stops working when it could not renew for
`GIVE_UP_SECONDS`, which is sooner than anybody else may take the lease (`LEASE_SECONDS`), so two
never work at once as long as clocks tick at the same rate.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sled_operator.cluster import kinds
from sled_operator.cluster.base import Cluster, ClusterError, Object

LEASE_SECONDS = 30
RENEW_SECONDS = 5.0
GIVE_UP_SECONDS = 20.0
ATTEMPT_SECONDS = 8.0
RETRY_SECONDS = 1.0
log = logging.getLogger(__name__)


class LeaseLost(Exception):
    """This replica may be leader no longer: end everything that works for it."""


@dataclass(slots=True)
class Lease:
    """The lease as one replica sees it."""

    cluster: Cluster
    namespace: str
    name: str
    identity: str
    monotonic: Callable[[], float] = time.monotonic
    _seen: tuple[str, str] = ("", "")
    _seen_at: float = field(default=0.0)

    async def acquire(self) -> None:
        """Wait until this replica is the leader."""
        while True:
            if await self._try():
                break
            await asyncio.sleep(RETRY_SECONDS)
        log.info("leading", extra={"identity": self.identity})

    async def hold(self) -> None:
        """Renew for ever.

        Raises:
            LeaseLost: somebody else has it, or it could not be renewed in time.
        """
        renewed = self.monotonic()
        while True:
            await asyncio.sleep(
                RENEW_SECONDS if self.monotonic() - renewed < RENEW_SECONDS else RETRY_SECONDS
            )
            asked = self.monotonic()
            try:
                async with asyncio.timeout(ATTEMPT_SECONDS):
                    mine = await self._try()
            except TimeoutError:
                mine = False
            if mine:
                renewed = asked
            elif self.monotonic() - renewed > GIVE_UP_SECONDS:
                raise LeaseLost(f"not renewed for {GIVE_UP_SECONDS:.0f} s")

    async def release(self) -> None:
        """Let the next replica start at once; best effort."""
        try:
            lease = await self.cluster.get(kinds.LEASE, self.namespace, self.name)
            if lease is not None and lease["spec"].get("holderIdentity") == self.identity:
                lease["spec"]["holderIdentity"] = ""
                await self.cluster.replace(kinds.LEASE, self.namespace, self.name, lease)
        except ClusterError as error:
            log.info("the lease was not released: %s", error)

    async def _try(self) -> bool:
        """Take or renew the lease; True when it is ours."""
        try:
            lease = await self.cluster.get(kinds.LEASE, self.namespace, self.name)
            if lease is None:
                await self.cluster.create(kinds.LEASE, self.namespace, self._new())
                return True
            if not self._may_take(lease):
                return False
            await self.cluster.replace(kinds.LEASE, self.namespace, self.name, self._taken(lease))
        except ClusterError as error:
            if error.status != 409:
                log.warning("the lease was not renewed: %s", error)
            return False
        return True

    def _may_take(self, lease: Object) -> bool:
        """Ours, free, or not renewed for its duration *as seen from here*: clocks may differ."""
        spec = lease["spec"]
        holder = spec.get("holderIdentity") or ""
        if holder in ("", self.identity):
            return True
        seen = (holder, str(spec.get("renewTime")))
        if seen != self._seen:
            self._seen, self._seen_at = seen, self.monotonic()
            return False
        duration = spec.get("leaseDurationSeconds") or LEASE_SECONDS
        return self.monotonic() - self._seen_at > float(duration)

    def _new(self) -> Object:
        moment = _now()
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": LEASE_SECONDS,
            "acquireTime": moment,
            "renewTime": moment,
            "leaseTransitions": 0,
        }
        return {
            "apiVersion": kinds.LEASE.api_version,
            "kind": kinds.LEASE.kind,
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": spec,
        }

    def _taken(self, lease: Object) -> Object:
        spec = dict(lease["spec"])
        moment = _now()
        if spec.get("holderIdentity") != self.identity:
            spec["acquireTime"] = moment
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + 1
        spec |= {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": moment,
        }
        return {**lease, "spec": spec}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
