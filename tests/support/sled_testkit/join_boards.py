"""Devices as their firmware and kernel show them, written as files, for the join kit.

Why: what a device is, is read from the device tree, /proc, /sys and package files; no such hardware is needed to
show that the reading is right. The contents are those of the real files, shortened to what is read. Must not be
taken for a claim that the kit ran on such a device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_CONTROLLERS = "sys/fs/cgroup/cgroup.controllers"
_PI_BOOT = "console=serial0,115200 root=PARTUUID=4c4e106f-02 rootfstype=ext4 rootwait quiet\n"
_L4T = "# R36 (release), REVISION: 4.0, GCID: 37537400, BOARD: generic, EABI: aarch64, DATE: Fri Sep 13 04:36:44 UTC 2024\n"
_TOOLKIT = """Package: libc6
Version: 2.35-0ubuntu3

Package: nvidia-container-toolkit
Status: install ok installed
Architecture: arm64
Version: {version}

"""


@dataclass(frozen=True, slots=True)
class Board:
    """One kind of device: what `uname -m` prints, and its files by path under the root."""

    machine: str
    files: Mapping[str, str] = field(default_factory=dict)
    programs: tuple[str, ...] = ()

    def write(self, root: Path, *, tree: str = "proc/device-tree") -> Path:
        """Lay the files out under `root`; `tree` is where the device tree shows."""
        for name, text in self.files.items():
            path = root / name.replace("TREE", tree)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for name in self.programs:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("#!/bin/sh\nexit 1\n")
            path.chmod(0o755)
        return root

    def but(self, **files: str) -> Board:
        """The same board with other contents; `__` in a name stands for `/`."""
        changed = {name.replace("__", "/"): text for name, text in files.items()}
        return Board(self.machine, {**self.files, **changed}, self.programs)


def _pi(model: str, *, memory: bool = True) -> Board:
    return Board(
        "aarch64",
        {
            "TREE/model": f"{model}\0",
            "TREE/compatible": "raspberrypi,model\0brcm,bcm2711\0",
            _CONTROLLERS: "cpuset cpu io memory pids\n" if memory else "cpuset cpu io pids\n",
            "boot/firmware/cmdline.txt": _PI_BOOT,
        },
    )


def _jetson(model: str, part: str, *, toolkit: str = "1.16.2-1") -> Board:
    return Board(
        "aarch64",
        {
            "TREE/model": f"{model}\0",
            "TREE/compatible": f"nvidia,p3768-0000+{part}\0nvidia,{part}\0nvidia,tegra234\0",
            _CONTROLLERS: "cpuset cpu io memory pids\n",
            "etc/nv_tegra_release": _L4T,
            "var/lib/dpkg/status": _TOOLKIT.format(version=toolkit),
        },
        ("usr/bin/nvidia-container-runtime",),
    )


PI_4B = _pi("Raspberry Pi 4 Model B Rev 1.5")
PI_4B_WITHOUT_MEMORY_CGROUP = _pi("Raspberry Pi 4 Model B Rev 1.5", memory=False)
PI_5 = _pi("Raspberry Pi 5 Model B Rev 1.0")
PI_3 = _pi("Raspberry Pi 3 Model B Plus Rev 1.3")
COMPUTE_MODULE_5 = _pi("Raspberry Pi Compute Module 5 Rev 1.0")
ORIN_NANO = _jetson(
    "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", "p3767-0005"
)
ORIN_NANO_OLD_TOOLKIT = _jetson(
    "NVIDIA Jetson Orin Nano Developer Kit", "p3767-0005", toolkit="1.9.0-1"
)
ORIN_NX = _jetson("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", "p3767-0000")
ORIN_NANO_ON_A_CARRIER = _jetson("Carrier Board 42", "p3767-0003")
AGX_ORIN = _jetson("NVIDIA Jetson AGX Orin Developer Kit", "p3701-0005")
ROCK_5B = Board("aarch64", {"TREE/model": "Radxa ROCK 5B\0", "TREE/compatible": "radxa,rock-5b\0"})
X86 = Board(
    "x86_64",
    {
        "sys/class/dmi/id/product_name": "NUC11PAHi5\n",
        "proc/cgroups": "#subsys_name hierarchy num_cgroups enabled\ncpu 3 80 1\nmemory 7 96 1\n",
    },
)
X86_WITH_GPU = Board(
    "x86_64",
    {**X86.files, "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: NVIDIA L4\n"},
    ("usr/bin/nvidia-container-runtime",),
)
X86_WITH_GPU_WITHOUT_TOOLKIT = Board("x86_64", X86_WITH_GPU.files)
