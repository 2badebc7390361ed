"""Readings of GPUs as Prometheus gauges. Must not know a vendor's library."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sled_verifier.gpu.base import GpuError, GpuReader, GpuReading

_log = logging.getLogger(__name__)

_LABELS = ("model_name", "gpu", "gpu_name")
GAUGES: tuple[tuple[str, str, Callable[[GpuReading], float | None]], ...] = (
    (
        "sled_gpu_memory_used_bytes",
        "GPU memory in use, by any process.",
        lambda r: r.memory_used_bytes,
    ),
    ("sled_gpu_memory_total_bytes", "GPU memory.", lambda r: r.memory_total_bytes),
    (
        "sled_gpu_busy_ratio",
        "Share of the recent past in which the GPU ran a kernel.",
        lambda r: r.busy_ratio,
    ),
    ("sled_gpu_power_watts", "Power that the GPU draws.", lambda r: r.power_watts),
)


class GpuCollector(Collector):
    """Reads at every scrape, in the scraping thread. A failure leaves the gauges out and is logged once."""

    def __init__(self, model_name: str, reader: GpuReader) -> None:
        self._model = model_name
        self._reader = reader
        self._failing = False

    def collect(self) -> Iterable[Metric]:
        """Called by the registry at a scrape."""
        readings = self._read()
        for name, text, value_of in GAUGES:
            gauge = GaugeMetricFamily(name, text, labels=_LABELS)
            for reading in readings:
                value = value_of(reading)
                if value is not None:
                    gauge.add_metric((self._model, reading.uuid, reading.name), value)
            yield gauge

    def _read(self) -> Iterable[GpuReading]:
        try:
            readings = tuple(self._reader.read())
        except GpuError as error:
            if not self._failing:
                _log.warning("GPUs cannot be read", extra={"error": str(error)})
            self._failing = True
            return ()
        self._failing = False
        return readings
