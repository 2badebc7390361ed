"""GPUs that read what they are told: for tests."""

from __future__ import annotations

from collections.abc import Sequence

from sled_verifier.gpu.base import GpuError, GpuReading


class FakeGpus:
    """A `GpuReader`. `failure` is raised instead of `readings` while it is set."""

    def __init__(self, readings: Sequence[GpuReading]) -> None:
        self.readings = readings
        self.failure: str | None = None
        self.closed = False

    def read(self) -> Sequence[GpuReading]:
        """See `GpuReader.read`."""
        if self.failure is not None:
            raise GpuError(self.failure)
        return self.readings

    def close(self) -> None:
        """See `GpuReader.close`."""
        self.closed = True
