"""The images for the other architecture: built here, their programs and libraries run under emulation.

Emulated is not measured: that they start and load llama.cpp says nothing of their speed on a device.
The L4T variant is built over the same stand-in as the others, not over NVIDIA's base.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sled_testkit import node_base, node_images
from sled_testkit.image_archive import configuration, unpack

MACHINES = {"arm64": "aarch64", "amd64": "x86_64"}
ARCH = node_base.foreign_arch()
EMULATOR = f"qemu-{MACHINES[ARCH]}-static"
EDGE = "import sled_edge.service, sled_llamacpp; sled_llamacpp.Library.load(None)"
LIBRARIES = {
    "operator": "import kopf, kubernetes_asyncio, orjson, cryptography.x509, sled_operator.runtime",
    "verifier": "import sled_verifier.server, sled_llamacpp; sled_llamacpp.Library.load(None)",
    "edge": EDGE,
    "edge-l4t": EDGE,
}


@pytest.fixture(scope="module")
def archives(provided: None, progress: Callable[[str], None]) -> dict[str, Path]:
    """The foreign images by name."""
    found = node_images.project_images(progress, ARCH, tuple(LIBRARIES))
    return {path.name.rpartition(f"-{ARCH}-")[0]: path for path in found}


@pytest.mark.parametrize("image", LIBRARIES)
def test_an_image_for_the_other_architecture_runs(
    archives: dict[str, Path], tmp_path: Path, image: str
) -> None:
    found = configuration(archives[image])
    config = found["config"]
    assert (found["architecture"], config["User"]) == (ARCH, "65532:65532")
    root = unpack(archives[image], tmp_path)
    script = f"{LIBRARIES[image]}; import platform; print(platform.machine())"
    assert _emulated(root, config, "-c", script).split()[-1] == MACHINES[ARCH]
    (program,) = config["Entrypoint"]
    assert "usage" in _emulated(root, config, program, "--help").lower()


def _emulated(root: Path, config: dict[str, Any], *arguments: str) -> str:
    """What the image's Python prints, with the image's environment and none of ours."""
    shutil.copy(shutil.which(EMULATOR) or EMULATOR, root / "emulator")
    command = ["env", "-i", *config["Env"], "chroot", str(root), "/emulator"]
    command += [node_base.INTERPRETER, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=170)
    assert done.returncode == 0, done.stderr
    return done.stdout
