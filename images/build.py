"""Build the project's images with buildah or docker, without a registry when a base image is given as a file.

`make images` builds all of them for this machine; `python images/build.py --help` says the rest. The steps: the project's wheel,
the locked wheels of its dependencies (hashes checked, kept in the user's cache), then each Dockerfile in a context that holds
nothing else. An image whose inputs are unchanged is not built again. Must not push anywhere.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))

from lock import platforms  # noqa: E402

sys.path.remove(str(HERE))

DEFAULT_BASE = "docker.io/library/python:3.13-slim"
IMAGES = ("operator", "verifier", "edge")
VARIANTS = {
    "verifier-vllm": "verifier-vllm",
    "verifier-vllm-cpu": "verifier-vllm",
    "verifier-cuda": "verifier",
    "edge-cuda": "edge",
    "edge-l4t": "edge",
}
"""What is built on demand, and whose Dockerfile is taken for it; see docs/how-to/air-gap.md."""
BASES = {
    "verifier-vllm": "with Python and a C compiler, such as docker.io/library/python:3.13",
    "verifier-vllm-cpu": "with Python and libnuma1, which vLLM's kernels for processors load",
    "verifier-cuda": "with CUDA and Python 3.11 or newer",
    "edge-cuda": "with CUDA and Python 3.11 or newer",
    "edge-l4t": "with NVIDIA's L4T and Python 3.11 or newer",
}
"""Images for which the default base will not do."""
LARGE = frozenset({"verifier-vllm", "verifier-vllm-cpu"})
"""Images of gigabytes: their steps are not kept for the next build, which would want twice the disk."""
EPOCH = 1_700_000_000
"""Time stamp of every file in every layer, so that equal inputs give equal images."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One build."""

    base: str
    build_base: str
    """For the stage that installs, which runs on this machine whatever the image is for."""
    python_version: str
    interpreter: str
    arch: str
    tool: str
    driver: str
    out: Path
    cache: Path


@dataclass(frozen=True, slots=True)
class Built:
    """One image."""

    name: str
    reference: str
    archive: Path


def build(names: Sequence[str], settings: Settings) -> list[Built]:
    """Build what is not there yet; archives lie in `settings.out`."""
    settings.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sled-images-") as scratch:
        own = _own_wheel(Path(scratch) / "own")
        return [_image(name, own, Path(scratch) / name, settings) for name in names]


def version() -> str:
    """The project's version, which is the images' tag."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return str(project["version"])


def _own_wheel(folder: Path) -> Path:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)}
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    _run(command, env=environment)
    return next(folder.glob("*.whl"))


def _lock(name: str) -> Path:
    own = HERE / name / "requirements.lock"
    return own if own.exists() else HERE / VARIANTS[name] / "requirements.lock"


def _context(folder: Path, own: Path, lock: Path, settings: Settings) -> Path:
    """A folder with the wheels and the installer, and nothing else."""
    for name in ("wheels", "own"):
        (folder / name).mkdir(parents=True)
    for wheel in sorted(_dependencies(lock, settings).glob("*.whl")):
        _link(wheel, folder / "wheels" / wheel.name)
    _link(own, folder / "own" / own.name)
    shutil.copy(HERE / "install.py", folder)
    shutil.copy(lock, folder)
    return folder


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def _dependencies(lock: Path, settings: Settings) -> Path:
    """The locked wheels for one Python and one architecture, downloaded once."""
    key = _digest(lock.read_bytes(), settings.python_version.encode(), settings.arch.encode())
    folder = settings.cache / "wheels" / key
    if not folder.exists():
        partial = folder.with_name(f".{key}.{os.getpid()}")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--require-hashes", "--only-binary=:all:", f"--dest={partial}"]
        command += [f"--python-version={settings.python_version}", *platforms(settings.arch)]
        _run([*command, "-r", str(lock)])
        partial.rename(folder)
    return folder


def _image(name: str, own: Path, folder: Path, settings: Settings) -> Built:
    dockerfile = HERE / VARIANTS.get(name, name) / "Dockerfile"
    lock = _lock(name)
    key = _key([dockerfile, lock, HERE / "install.py", own], settings)
    archive = settings.out / f"{name}-{settings.arch}-{key}.tar"
    reference = f"docker.io/sled-dev/{name}:{version()}"
    if not archive.exists():
        for old in settings.out.glob(f"{name}-{settings.arch}-*"):
            old.unlink()
        print(f"building {name} for {settings.arch}", flush=True)
        context = _context(folder, own, lock, settings)
        _make(dockerfile, context, reference, archive, settings, layers=name not in LARGE)
    return Built(name, reference, archive)


def _key(inputs: Sequence[Path], settings: Settings) -> str:
    words = (settings.base, settings.build_base, settings.interpreter, settings.python_version)
    return _digest(*(each.read_bytes() for each in inputs), *(word.encode() for word in words))


def _make(
    dockerfile: Path,
    context: Path,
    reference: str,
    archive: Path,
    settings: Settings,
    *,
    layers: bool,
) -> None:
    arguments = {
        "BASE": settings.base,
        "BUILD_BASE": settings.build_base,
        "PYTHON": settings.interpreter,
        "VERSION": version(),
        "REVISION": revision(),
    }
    options = [f"--build-arg={name}={value}" for name, value in arguments.items()]
    options += [f"--file={dockerfile}", f"--tag={reference}", f"--platform=linux/{settings.arch}"]
    partial = archive.with_name(f".{archive.name}.{os.getpid()}")
    if settings.tool == "docker":
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)}
        output = f"--output=type=docker,dest={partial},rewrite-timestamp=true"
        _run(["docker", "buildx", "build", *options, output, str(context)], env=environment)
    else:
        buildah = ["buildah", f"--storage-driver={settings.driver}"]
        isolation = ["--isolation=chroot", f"--timestamp={EPOCH}", "--pull=false"]
        # Docker sets these two by itself
        options += [f"--build-arg=BUILDPLATFORM=linux/{native_arch()}"]
        options += [f"--build-arg=TARGETPLATFORM=linux/{settings.arch}"]
        options.append(f"--layers={str(layers).lower()}")
        _run([*buildah, "build", "--quiet", *isolation, *options, str(context)])
        target = f"docker-archive:{partial}:{reference}"
        _run([*buildah, "push", "--quiet", reference, target])
    partial.rename(archive)


def revision() -> str:
    """The commit that is built, or `unknown` outside a checkout."""
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def measure(archive: Path) -> tuple[int, int]:
    """Bytes on a node's disk, and bytes that a registry would send, nearly."""
    compressed = 0
    with archive.open("rb") as file:
        while block := file.read(1 << 22):
            compressed += len(gzip.compress(block, 6))
    return archive.stat().st_size, compressed


def _digest(*parts: bytes) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "big") + part)
    return total.hexdigest()[:16]


def _run(command: Sequence[str], env: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise SystemExit(f"{' '.join(command[:4])} … failed:\n{tail}")


def default_cache() -> Path:
    """`images/` under SLED_CACHE or the user's cache."""
    given = os.environ.get("SLED_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return (Path(given) if given else home / "sled") / "images"


def native_arch() -> str:
    """This machine's architecture, as images name it."""
    return "arm64" if platform.machine() in ("aarch64", "arm64") else "amd64"


def main() -> int:
    """Build, and say how large each image is."""
    parser = argparse.ArgumentParser(description="Build the images.")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="IMAGE",
        help=f"{', '.join(IMAGES)} are built unless something is named; also {', '.join(VARIANTS)}",
    )
    parser.add_argument("--base", default=DEFAULT_BASE, help="base image")
    parser.add_argument(
        "--build-base", help="base image of the build stage, for this machine; default: --base"
    )
    parser.add_argument("--python-version", default="3.13", help="Python of the base image")
    parser.add_argument("--interpreter", default="/usr/local/bin/python3", help="where it lies")
    parser.add_argument("--arch", default=native_arch(), choices=("amd64", "arm64"))
    parser.add_argument("--tool", default=_tool(), choices=("buildah", "docker"))
    parser.add_argument("--driver", default="vfs", help="buildah's storage driver")
    parser.add_argument("--out", type=Path, default=default_cache(), help="folder of archives")
    given = parser.parse_args()
    needing = [name for name in given.names if given.base == DEFAULT_BASE and name in BASES]
    if needing:
        parser.error(f"{needing[0]} needs --base: an image {BASES[needing[0]]}")
    settings = Settings(
        given.base,
        given.build_base or given.base,
        given.python_version,
        given.interpreter,
        given.arch,
        given.tool,
        given.driver,
        given.out,
        default_cache(),
    )
    for image in build(given.names or IMAGES, settings):
        unpacked, compressed = (size / 1e6 for size in measure(image.archive))
        print(f"{image.reference}: {compressed:.0f} MB to download, {unpacked:.0f} MB on disk")
        print(f"  {image.archive}")
    return 0


def _tool() -> str:
    return "docker" if shutil.which("docker") and not shutil.which("buildah") else "buildah"


if __name__ == "__main__":
    sys.exit(main())
