"""Keeps a replica to its share of the devices: looks at the others, asks its own to connect again.
Must not decide how many (`balance`) nor know how the others are found (`peers`).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence

from sled_verifier.balance import Balance
from sled_verifier.service import Service

_log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
REASON = "this replica has more than its share of the devices"


async def spread(
    service: Service,
    counts: Callable[[], Awaitable[Sequence[int]]],
    look_seconds: float = LOOK_SECONDS,
) -> None:
    """Look until cancelled; replicas that started together do not look in step."""
    balance = Balance()
    while True:
        await asyncio.sleep(look_seconds * random.uniform(0.75, 1.25))
        all_counts = await counts()
        mine = service.staying_devices
        asked = service.ask_to_move(balance.look(mine, all_counts), REASON)
        if asked:
            fields = {"devices": mine, "asked": asked, "replicas": len(all_counts)}
            _log.info("devices asked to connect again", extra=fields)
