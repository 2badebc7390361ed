"""GPU metrics: what NVML says becomes gauges, and what it does not say leaves no trace but a line in the log."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
from prometheus_client import CollectorRegistry

from sled_testkit.verifier import verifier_config
from sled_testkit.verifier_http import get
from sled_verifier.engine.fake import FakeEngine
from sled_verifier.gpu.base import GpuError, GpuReading
from sled_verifier.gpu.fake import FakeGpus
from sled_verifier.gpu.metrics import GpuCollector
from sled_verifier.gpu.nvml import NvmlReader, open_nvml
from sled_verifier.server import VerifierServer

USED, TOTAL = 3 << 30, 80 << 30
NAMES = ("memory_used_bytes", "memory_total_bytes", "busy_ratio", "power_watts")


class PlayedNvml:
    """NVML with two GPUs, by the real package's names and errors; the second tells only its name."""

    NVMLError = pynvml.NVMLError
    NVMLError_NotSupported = pynvml.NVMLError_NotSupported

    def __init__(self, gpus: int = 2) -> None:
        self.gpus = gpus
        self.running = 0
        self.lost = False

    def nvmlInit(self) -> None:
        self.running += 1

    def nvmlShutdown(self) -> None:
        self.running -= 1

    def nvmlDeviceGetCount(self) -> int:
        return self.gpus

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}f00"

    def nvmlDeviceGetName(self, handle: int) -> bytes:
        return b"NVIDIA A100"

    def _only_first(self, handle: int) -> None:
        if self.lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        if handle:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        self._only_first(handle)
        return SimpleNamespace(used=USED, total=TOTAL)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        self._only_first(handle)
        return SimpleNamespace(gpu=37, memory=12)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        self._only_first(handle)
        return 251_500


def test_the_played_library_has_only_what_the_real_one_has() -> None:
    played = {name for name in vars(PlayedNvml) if name.startswith(("nvml", "NVML"))}
    assert all(hasattr(pynvml, name) for name in played)
    assert len(played) == 11


def test_readings_are_in_bytes_watts_and_shares() -> None:
    library = PlayedNvml()
    reader = NvmlReader(library, {})
    first, second = reader.read()
    assert first == GpuReading("GPU-0f00", "NVIDIA A100", USED, TOTAL, 0.37, 251.5)
    assert second == GpuReading("GPU-1f00", "NVIDIA A100", None, None, None, None)
    reader.close()
    assert library.running == 0


@pytest.mark.parametrize(
    ("chosen", "seen"),
    [("0", ["GPU-0f00"]), ("1", ["GPU-1f00"]), ("GPU-1", ["GPU-1f00"]), ("1,0", None)],
)
def test_gpus_that_the_process_may_not_use_are_left_out(
    chosen: str, seen: list[str] | None
) -> None:
    reader = NvmlReader(PlayedNvml(), {"CUDA_VISIBLE_DEVICES": chosen})
    assert [reading.uuid for reading in reader.read()] == (seen or ["GPU-0f00", "GPU-1f00"])


@pytest.mark.parametrize(("gpus", "chosen"), [(0, "0"), (2, ""), (2, "7")])
def test_no_visible_gpu_is_an_error(gpus: int, chosen: str) -> None:
    library = PlayedNvml(gpus)
    with pytest.raises(GpuError, match="no NVIDIA GPU is visible"):
        NvmlReader(library, {"CUDA_VISIBLE_DEVICES": chosen})
    assert library.running == 0


def test_a_machine_without_a_driver_or_the_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real package, on this machine without NVIDIA's driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        with pytest.raises(GpuError, match="NVML cannot be used"):
            open_nvml()
    else:
        open_nvml({}).close()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(GpuError, match=r"install sled-inference\[verifier-nvidia\]"):
        open_nvml()


def test_a_gpu_that_is_lost_leaves_the_gauges_out_and_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    library = PlayedNvml()
    registry = CollectorRegistry()
    registry.register(GpuCollector("m", NvmlReader(library, {})))
    labels = {"model_name": "m", "gpu": "GPU-0f00", "gpu_name": "NVIDIA A100"}
    values = [registry.get_sample_value(f"sled_gpu_{name}", labels) for name in NAMES]
    assert values == [USED, TOTAL, 0.37, 251.5]
    library.lost = True
    for _ in range(3):
        assert registry.get_sample_value("sled_gpu_power_watts", labels) is None
    assert caplog.text.count("GPUs cannot be read") == 1
    library.lost = False
    assert registry.get_sample_value("sled_gpu_power_watts", labels) == 251.5


async def test_a_replica_exposes_its_gpus_and_lets_go_of_them() -> None:
    gpus = FakeGpus([GpuReading("GPU-1", "NVIDIA L4", USED, TOTAL, 0.5, None)])
    async with VerifierServer(verifier_config(), FakeEngine(), gpus=gpus) as server:
        _, page = await get(server.metrics_address, "/metrics")
        labels = 'gpu="GPU-1",gpu_name="NVIDIA L4",model_name="toy"'
        assert f"sled_gpu_busy_ratio{{{labels}}} 0.5" in page
        assert "sled_gpu_power_watts{" not in page
        gpus.failure = "the driver is gone"
        status, page = await get(server.metrics_address, "/metrics")
        assert status == 200
        assert "sled_gpu_memory_used_bytes{" not in page
    assert gpus.closed
