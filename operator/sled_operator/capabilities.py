"""Which optional kinds the cluster has. Asked now and then: they may come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from sled_operator.cluster.base import ClusterError, Reader, Resource

REFRESH_SECONDS = 300.0


@dataclass(slots=True)
class Capabilities:
    """The optional kinds that answered last time."""

    reader: Reader
    candidates: tuple[Resource, ...]
    namespace: str = ""
    present: frozenset[Resource] = frozenset()
    _fresh_until: float = field(default=-1.0)

    async def refresh(self, now: float) -> bool:
        """Ask again if the last answers are old; True when something has changed.

        A kind that we may not read counts as absent: what we may not see we may not manage.
        """
        if now < self._fresh_until:
            return False
        answers = await asyncio.gather(*(self._has(each) for each in self.candidates))
        found = frozenset(_chosen(self.candidates, answers))
        changed, self.present = found != self.present, found
        self._fresh_until = now + REFRESH_SECONDS
        return changed

    async def _has(self, resource: Resource) -> bool:
        try:
            await self.reader.page(resource, self.namespace, "", 1, "")
        except ClusterError as error:
            if error.status in (403, 404):
                return False
            raise
        return True


def _chosen(resources: Iterable[Resource], answers: Iterable[bool]) -> list[Resource]:
    return [resource for resource, yes in zip(resources, answers, strict=True) if yes]
