"""How far a fetch has come, as values. Must not know how they are shown."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass


class Stage(enum.Enum):
    """What is being done to a model."""

    WAIT = "waiting for another process"
    DOWNLOAD = "downloading"
    CONVERT = "converting"
    VERIFY = "verifying"


@dataclass(frozen=True, slots=True)
class Progress:
    """`done_bytes` of `total_bytes` (None while unknown) of one stage of one model."""

    name: str
    stage: Stage
    done_bytes: int = 0
    total_bytes: int | None = None


OnProgress = Callable[[Progress], None]
"""Called often and from the calling thread; must return quickly."""


def ignore_progress(_: Progress) -> None:
    """For callers that do not watch."""
