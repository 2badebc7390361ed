"""A base image from Debian packages, for machines that reach no registry.

Why: the Dockerfiles take their base as an argument; here it is a Debian root file system with
Python, made once by debootstrap, stripped of what no program reads, and kept in the user's cache.
Must not be published: it gets no updates.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from sled_testkit.cluster_tools import Progress, cache_folder

SUITE = "bookworm"
VERSION = "1"
"""Changes with what is in the base."""
REFERENCE = f"localhost/sled-base-{SUITE}:{VERSION}"
INTERPRETER = "/usr/bin/python3"
PYTHON_VERSION = "3.11"
_PACKAGES = "python3,ca-certificates,libgomp1,media-types"
_MIRROR = "http://deb.debian.org/debian"
_UNREAD = (
    *("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian"),
    *("usr/share/bash-completion", "var/cache/apt", "var/lib/apt/lists", "var/log"),
)
_EPOCH = "1700000000"


def archive(progress: Progress) -> Path:
    """The root file system as a tar file, made when it is not in the cache."""
    target = cache_folder().parent / "images" / f"base-{SUITE}-{VERSION}.tar"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        progress(f"making a base image from Debian {SUITE}, once (about two minutes)")
        with tempfile.TemporaryDirectory(prefix="sled-base-") as scratch:
            _make(Path(scratch), target)
    return target


def _make(scratch: Path, target: Path) -> None:
    root = scratch / "root"
    command = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", SUITE]
    _run([*command, str(root), _MIRROR])
    for folder in _UNREAD:
        shutil.rmtree(root / folder, ignore_errors=True)
        (root / folder).mkdir(parents=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    tar = ["tar", "--create", "--numeric-owner", "--sort=name", f"--mtime=@{_EPOCH}"]
    _run([*tar, f"--file={partial}", f"--directory={root}", "."])
    os.replace(partial, target)


def load(driver: str, progress: Progress) -> str:
    """Make the base known to buildah; returns its reference. Run as it is, it sleeps: a pause image."""
    buildah = ["buildah", f"--storage-driver={driver}"]
    known = subprocess.run([*buildah, "inspect", "--type=image", REFERENCE], capture_output=True)
    if known.returncode != 0:
        tar = archive(progress)
        with tempfile.TemporaryDirectory(dir=tar.parent) as context:
            os.link(tar, Path(context) / "base.tar")
            (Path(context) / "Dockerfile").write_text(
                'FROM scratch\nADD base.tar /\nENTRYPOINT ["/usr/bin/sleep", "infinity"]\n'
            )
            options = ["--isolation=chroot", f"--timestamp={_EPOCH}", f"--tag={REFERENCE}"]
            _run([*buildah, "build", "--quiet", *options, context])
    return REFERENCE


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise RuntimeError(f"{' '.join(command[:3])} … failed:\n{tail}")
