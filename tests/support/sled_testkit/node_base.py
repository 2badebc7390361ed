"""A base image from Debian packages, for machines that reach no registry.

Why: the Dockerfiles take their base as an argument; here it is a Debian root file system with
Python, made once by debootstrap, stripped of what no program reads, and kept in the user's cache.
Must not be published: it gets no updates.
"""

from __future__ import annotations

import os
import platform
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


def native_arch() -> str:
    """This machine's architecture, as Debian and images name it."""
    return "arm64" if platform.machine() in ("aarch64", "arm64") else "amd64"


def foreign_arch() -> str:
    """The other one of the two that images are built for."""
    return "amd64" if native_arch() == "arm64" else "arm64"


def reference(arch: str) -> str:
    """Name of the base image of an architecture."""
    return REFERENCE if arch == native_arch() else f"{REFERENCE}-{arch}"


def archive(progress: Progress, arch: str) -> Path:
    """The root file system as a tar file, made when it is not in the cache."""
    suffix = "" if arch == native_arch() else f"-{arch}"
    target = cache_folder().parent / "images" / f"base-{SUITE}-{VERSION}{suffix}.tar"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        progress(f"making a base image from Debian {SUITE} for {arch}, once (about two minutes)")
        with tempfile.TemporaryDirectory(prefix="sled-base-") as scratch:
            root = Path(scratch) / "root"
            (_bootstrap if arch == native_arch() else _unpack)(root, arch)
            _pack(root, target)
    return target


def _bootstrap(root: Path, arch: str) -> None:
    command = ["debootstrap", "--variant=minbase", f"--arch={arch}", f"--include={_PACKAGES}"]
    _run([*command, SUITE, str(root), _MIRROR])


def _unpack(root: Path, arch: str) -> None:
    """The packages' files, without the scripts that configure them: those would have to run here."""
    command = ["debootstrap", "--foreign", "--variant=minbase", f"--arch={arch}"]
    _run([*command, f"--include={_PACKAGES}", SUITE, str(root), _MIRROR])
    for package in sorted((root / "var/cache/apt/archives").glob("*.deb")):
        content = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", str(package)], capture_output=True, check=True
        ).stdout
        tar = ["tar", "--extract", "--keep-directory-symlink", f"--directory={root}"]
        subprocess.run(tar, input=content, check=True)
    (root / "proc").unlink()
    (root / "proc").mkdir()
    shutil.rmtree(root / "debootstrap")
    trusted = (root / "usr/share/ca-certificates").glob("**/*.crt")
    bundle = b"".join(each.read_bytes() for each in sorted(trusted))
    (root / "etc/ssl/certs/ca-certificates.crt").write_bytes(bundle)


def _pack(root: Path, target: Path) -> None:
    for folder in _UNREAD:
        shutil.rmtree(root / folder, ignore_errors=True)
        (root / folder).mkdir(parents=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    tar = ["tar", "--create", "--numeric-owner", "--sort=name", f"--mtime=@{_EPOCH}"]
    _run([*tar, f"--file={partial}", f"--directory={root}", "."])
    os.replace(partial, target)


def load(driver: str, progress: Progress, arch: str | None = None) -> str:
    """Make the base known to buildah; returns its reference. Run as it is, it sleeps: a pause image."""
    arch = arch or native_arch()
    name = reference(arch)
    buildah = ["buildah", f"--storage-driver={driver}"]
    known = subprocess.run([*buildah, "inspect", "--type=image", name], capture_output=True)
    if known.returncode != 0:
        tar = archive(progress, arch)
        with tempfile.TemporaryDirectory(dir=tar.parent) as context:
            os.link(tar, Path(context) / "base.tar")
            (Path(context) / "Dockerfile").write_text(
                'FROM scratch\nADD base.tar /\nENTRYPOINT ["/usr/bin/sleep", "infinity"]\n'
            )
            options = ["--isolation=chroot", f"--timestamp={_EPOCH}", f"--tag={name}"]
            _run([*buildah, "build", "--quiet", f"--platform=linux/{arch}", *options, context])
    return name


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise RuntimeError(f"{' '.join(command[:3])} … failed:\n{tail}")
