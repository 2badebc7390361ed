"""NVIDIA GPUs through NVML, by the package nvidia-ml-py. Imports it only when asked to."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sled_verifier.gpu.base import GpuError, GpuReading

MOST_GPUS = 64


def open_nvml(environment: Mapping[str, str] | None = None) -> NvmlReader:
    """A reader of this machine's GPUs.

    Raises:
        GpuError: the package, the driver or a GPU is missing.
    """
    try:
        import pynvml
    except ImportError as error:
        sentence = "nvidia-ml-py is not installed; install sled-inference[verifier-nvidia]"
        raise GpuError(sentence) from error
    return NvmlReader(pynvml, os.environ if environment is None else environment)


class NvmlReader:
    """`GpuReader` over NVML. NVML sees every GPU of the machine, so those that `CUDA_VISIBLE_DEVICES` leaves out
    are left out here.

    Raises:
        GpuError: NVML cannot start, or no GPU is visible.
    """

    def __init__(self, library: Any, environment: Mapping[str, str]) -> None:
        self._nvml = library
        try:
            library.nvmlInit()
            self._handles = self._visible(environment.get("CUDA_VISIBLE_DEVICES"))
        except library.NVMLError as error:
            raise GpuError(f"NVML cannot be used: {error}") from error
        if not self._handles:
            library.nvmlShutdown()
            raise GpuError("no NVIDIA GPU is visible")

    def read(self) -> Sequence[GpuReading]:
        """See `GpuReader.read`."""
        return [self._reading(uuid, handle) for uuid, handle in self._handles]

    def close(self) -> None:
        """See `GpuReader.close`."""
        self._nvml.nvmlShutdown()

    def _visible(self, chosen: str | None) -> list[tuple[str, Any]]:
        count = min(self._nvml.nvmlDeviceGetCount(), MOST_GPUS)
        handles = [self._nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        named = [(_text(self._nvml.nvmlDeviceGetUUID(handle)), handle) for handle in handles]
        if chosen is None:
            return named
        names = [name.strip() for name in chosen.split(",") if name.strip()]
        return [
            (uuid, handle)
            for index, (uuid, handle) in enumerate(named)
            if str(index) in names or any(uuid.startswith(name) for name in names)
        ]

    def _reading(self, uuid: str, handle: Any) -> GpuReading:
        nvml = self._nvml
        memory = self._told(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
        busy = self._told(lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
        milliwatts = self._told(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        name = self._told(lambda: nvml.nvmlDeviceGetName(handle))
        return GpuReading(
            uuid=uuid,
            name="" if name is None else _text(name),
            memory_used_bytes=None if memory is None else int(memory.used),
            memory_total_bytes=None if memory is None else int(memory.total),
            busy_ratio=None if busy is None else busy.gpu / 100,
            power_watts=None if milliwatts is None else milliwatts / 1000,
        )

    def _told(self, ask: Callable[[], Any]) -> Any:
        """The answer; None where this GPU does not support the question; integrated ones lack some."""
        try:
            return ask()
        except self._nvml.NVMLError_NotSupported:
            return None
        except self._nvml.NVMLError as error:
            raise GpuError(f"NVML failed: {error}") from error


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
