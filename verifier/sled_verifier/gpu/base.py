"""What is read of a GPU, and how a reader fails. Must not know a vendor's library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU at one moment; None is what it does not tell."""

    uuid: str
    name: str
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    busy_ratio: float | None
    """Share of the recent past in which a kernel was running, 0 to 1."""
    power_watts: float | None


class GpuError(Exception):
    """GPUs cannot be read; the message is a sentence."""


class GpuReader(Protocol):
    """Reads the GPUs that this process may use. Called from one thread at a time."""

    def read(self) -> Sequence[GpuReading]:
        """The present readings, in milliseconds.

        Raises:
            GpuError: none can be had now.
        """
        ...

    def close(self) -> None:
        """Let go of the library."""
        ...
