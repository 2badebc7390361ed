"""The images for the other architecture: built here, their programs and libraries run under emulation.

Emulated is not measured: that they start and load llama.cpp says nothing of their speed on a device.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sled_testkit import node_base, node_images

MACHINES = {"arm64": "aarch64", "amd64": "x86_64"}
ARCH = node_base.foreign_arch()
EMULATOR = f"qemu-{MACHINES[ARCH]}-static"
PYTHON = node_base.INTERPRETER
LIBRARIES = {
    "operator": "import kopf, kubernetes_asyncio, orjson, cryptography.x509, sled_operator.runtime",
    "verifier": "import sled_verifier.server, sled_llamacpp; sled_llamacpp.Library.load(None)",
    "edge": "import sled_edge.service, sled_llamacpp; sled_llamacpp.Library.load(None)",
}


@pytest.fixture(scope="module")
def archives(provided: None, progress: Callable[[str], None]) -> dict[str, Path]:
    """The foreign images by name."""
    found = node_images.project_images(progress, ARCH)
    return {path.name.partition("-")[0]: path for path in found}


@pytest.mark.parametrize("image", LIBRARIES)
def test_an_image_for_the_other_architecture_runs(
    archives: dict[str, Path], tmp_path: Path, image: str
) -> None:
    found = _unpack(archives[image], tmp_path)
    config = found["config"]
    assert (found["architecture"], config["User"]) == (ARCH, "65532:65532")
    script = f"{LIBRARIES[image]}; import platform; print(platform.machine())"
    assert _emulated(tmp_path / "root", config, "-c", script).split()[-1] == MACHINES[ARCH]
    (program,) = config["Entrypoint"]
    assert "usage" in _emulated(tmp_path / "root", config, program, "--help").lower()


def _unpack(archive: Path, folder: Path) -> dict[str, Any]:
    """The image's files under `root`; returns its configuration."""
    layers, root = folder / "layers", folder / "root"
    with tarfile.open(archive) as tar:
        tar.extractall(layers, filter="fully_trusted")
    (manifest,) = json.loads((layers / "manifest.json").read_text())
    for layer in manifest["Layers"]:
        with tarfile.open(layers / layer) as tar:
            tar.extractall(root, filter="fully_trusted")
    found: dict[str, Any] = json.loads((layers / manifest["Config"]).read_text())
    return found


def _emulated(root: Path, config: dict[str, Any], *arguments: str) -> str:
    """What the image's Python prints, with the image's environment and none of ours."""
    shutil.copy(shutil.which(EMULATOR) or EMULATOR, root / "emulator")
    command = ["env", "-i", *config["Env"], "chroot", str(root), "/emulator", PYTHON, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=170)
    assert done.returncode == 0, done.stderr
    return done.stdout
