"""The image archives of an end-to-end test: the project's own, CoreDNS, and the pause image.

Why: no registry is asked for anything. The project's images are built as `make images` builds them,
on a base of our own; what is unchanged since the last run is taken from the user's cache.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from sled_testkit import cluster_tools, node_base
from sled_testkit.cluster_tools import TOOLS, Progress
from sled_testkit.node_network import run

DRIVER = os.environ.get("SLED_TEST_BUILDAH_DRIVER", "overlay")
COREDNS = "localhost/sled-test-coredns:1"
_ARCHIVES: list[Path] = []
_BUILD = Path(__file__).resolve().parents[3] / "images" / "build.py"


def archives(progress: Progress) -> list[Path]:
    """Paths of the docker archives that every node is given; built once in a process."""
    if not _ARCHIVES:
        _ARCHIVES.extend(_archives(progress))
    return _ARCHIVES


def _archives(progress: Progress) -> list[Path]:
    reference = node_base.load(DRIVER, progress)
    built = project_images(progress, node_base.native_arch())
    return [_pause(reference), _coredns(), *built]


def project_images(
    progress: Progress, arch: str, names: Sequence[str] = (), out: Path | None = None
) -> list[Path]:
    """Archives of the project's images for an architecture, on a base of our own; `out` is another
    folder than the cache, where nothing is found.
    """
    build = _builder()
    build_base = node_base.load(DRIVER, progress)
    settings = build.Settings(
        base=node_base.load(DRIVER, progress, arch),
        build_base=build_base,
        python_version=node_base.PYTHON_VERSION,
        interpreter=node_base.INTERPRETER,
        arch=arch,
        tool="buildah",
        driver=DRIVER,
        out=out or build.default_cache(),
        cache=build.default_cache(),
    )
    progress(f"building the project's images for {arch} (what is unchanged is in the cache)")
    return [image.archive for image in build.build(names or build.IMAGES, settings)]


def _pause(reference: str) -> Path:
    target = cluster_tools.cache_folder().parent / "images" / f"pause-{node_base.VERSION}.tar"
    if not target.exists():
        _push(reference, target)
    return target


def _coredns() -> Path:
    version = TOOLS["coredns"].version
    target = cluster_tools.cache_folder().parent / "images" / f"coredns-{version}.tar"
    if not target.exists():
        program = cluster_tools.find("coredns")
        with tempfile.TemporaryDirectory(dir=target.parent) as context:
            shutil.copy(program, Path(context) / "coredns")
            (Path(context) / "Dockerfile").write_text(
                'FROM scratch\nCOPY coredns /coredns\nENTRYPOINT ["/coredns"]\n'
            )
            options = ["--quiet", "--isolation=chroot", f"--tag={COREDNS}"]
            run([*_buildah(), "build", *options, context])
        _push(COREDNS, target)
    return target


def _push(reference: str, target: Path) -> None:
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    run([*_buildah(), "push", "--quiet", reference, f"docker-archive:{partial}:{reference}"], 300)
    partial.rename(target)


def _buildah() -> list[str]:
    return ["buildah", f"--storage-driver={DRIVER}"]


def _builder() -> ModuleType:
    """`images/build.py`, which is a script and no package."""
    spec = importlib.util.spec_from_file_location("sled_images_build", _BUILD)
    if spec is None or spec.loader is None:
        raise RuntimeError(f"{_BUILD} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
