"""How many of its devices a replica should ask to connect again, so that all replicas have about the
same number. Pure: no clock, no network.

Why: a device keeps its stream for hours, so a replica that joins would serve nobody who is there
already. A device that connects again goes where the Service sends it, which is any replica, perhaps
the same one; so a replica asks only as many as are above its share, looks again, and asks less and
less often where that does not help (an address that always leads back here).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

TOLERANCE = 0.1
"""A replica may have so much more than its share: chance alone makes differences."""
MAX_SHARE = 0.25
"""Most of its devices that a replica asks at once: each makes another replica read its prompts."""
PATIENT_LOOKS = 4
"""Times that asking may be in vain before the pauses double."""
MAX_SKIPPED_LOOKS = 63


def excess(mine: int, all_counts: Sequence[int]) -> int:
    """Devices above a replica's share; `all_counts` has each serving replica, itself included."""
    if len(all_counts) < 2:
        return 0
    mean = sum(all_counts) / len(all_counts)
    allowed = max(math.ceil(mean), math.floor(mean * (1 + TOLERANCE)))
    return max(0, mine - allowed)


class Balance:
    """One replica's looks at its share, at a steady pace."""

    def __init__(self) -> None:
        self._replicas = 0
        self._asked_at_excess: int | None = None
        self._in_vain = 0
        self._skip = 0

    def look(self, mine: int, all_counts: Sequence[int]) -> int:
        """How many devices to ask now."""
        found = excess(mine, all_counts)
        if not found or len(all_counts) != self._replicas:
            self._replicas = len(all_counts)
            self._asked_at_excess, self._in_vain, self._skip = None, 0, 0
        if not found:
            return 0
        if self._skip:
            self._skip -= 1
            return 0
        before = self._asked_at_excess
        self._in_vain = self._in_vain + 1 if before is not None and found >= before else 0
        self._skip = min(2 ** max(0, self._in_vain - PATIENT_LOOKS) - 1, MAX_SKIPPED_LOOKS)
        self._asked_at_excess = found
        return min(found, max(1, int(mine * MAX_SHARE)))
