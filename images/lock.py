"""Write each image's `requirements.lock`: every package pinned, with the hashes of its wheels.

Run by hand when pyproject.toml changes or versions are to move: `.venv/bin/python images/lock.py [IMAGE …]`. Must not be run by
a build. Nothing large is downloaded: the package index tells the hashes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
GLIBC = range(34, 4, -1)
"""Minor versions of the C library that wheels may name; the newest is older than that of any base image."""


@dataclass(frozen=True, slots=True)
class Image:
    """What an image's lock is made from: an extra of ours; where that is empty, the environment of `make engines`."""

    extra: str
    pythons: tuple[str, ...] = ("3.11", "3.12", "3.13")
    archs: tuple[str, ...] = tuple(MACHINES)


IMAGES = {
    "operator": Image("operator"),
    "verifier": Image("verifier-image"),
    "verifier-vllm": Image("verifier-vllm-image", archs=("amd64",)),
    "verifier-vllm-cpu": Image("", pythons=("3.11",), archs=("amd64",)),
    "edge": Image("edge-image"),
}
FOR_TESTS_ONLY = {"iniconfig", "pluggy", "pytest", "pytest-asyncio", "pytest-timeout", "scipy"}


def platforms(arch: str) -> list[str]:
    """pip's platform flags of one architecture, newest C library first."""
    machine = MACHINES[arch]
    flags = [f"--platform=manylinux_2_{minor}_{machine}" for minor in GLIBC]
    return [*flags, f"--platform=manylinux2014_{machine}"]


def main() -> int:
    """Resolve each image's packages once, then collect the hashes for all its Pythons and machines."""
    for name in sys.argv[1:] or IMAGES:
        if name not in IMAGES:
            raise SystemExit(f"no image {name}: there are {', '.join(IMAGES)}")
        image = IMAGES[name]
        pins = _resolved(image) if image.extra else _frozen()
        hashes: dict[str, set[str]] = defaultdict(set)
        for python in image.pythons:
            for arch in image.archs:
                for pin, digest in _found(["--no-deps", *pins], python, arch):
                    hashes[pin].add(digest)
        source = f"Extra {image.extra}" if image.extra else "The environment of `make engines`"
        lines = [f"# {source}; written by images/lock.py, do not edit."]
        for pin in pins:
            digests = sorted(hashes[pin])
            lines.append(" \\\n    ".join([pin, *(f"--hash=sha256:{each}" for each in digests)]))
        (HERE / name / "requirements.lock").write_text("\n".join(lines) + "\n")
        print(f"{name}: {len(pins)} packages", flush=True)
    return 0


def _resolved(image: Image) -> list[str]:
    """Exact versions that satisfy the extra: the oldest Python decides. pip comes along, to install."""
    with tempfile.TemporaryDirectory() as folder:
        asked = ["pip", f"{_wheel(Path(folder))}[{image.extra}]"]
        found = [pin for pin, _ in _found(asked, image.pythons[0], image.archs[0])]
    return sorted(pin for pin in found if not pin.startswith("sled-inference=="))


def _frozen() -> list[str]:
    """What the engines' tests run with, without what only tests need."""
    script = ROOT / "tests" / "engines" / "install.sh"
    folder = subprocess.run([script], check=True, capture_output=True, text=True).stdout.strip()
    command = [f"{folder}/bin/python", "-m", "pip", "list", "--format=json"]
    listed = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    pins = [_pin(each["name"], each["version"]) for each in listed]
    return sorted(pin for pin in pins if pin.partition("==")[0] not in FOR_TESTS_ONLY)


def _wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("*.whl"))


def _found(asked: list[str], python: str, arch: str) -> Iterator[tuple[str, str]]:
    """What pip would install: pins and the SHA-256 of their wheels."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--report=-"]
    command += ["--ignore-installed", "--target=unused", "--only-binary=:all:"]
    command += [f"--python-version={python}", *platforms(arch)]
    done = subprocess.run([*command, *asked], check=True, stdout=subprocess.PIPE)
    report: dict[str, Any] = json.loads(done.stdout)
    for each in report["install"]:
        about, archive = each["metadata"], each["download_info"].get("archive_info", {})
        yield _pin(about["name"], about["version"]), archive.get("hashes", {}).get("sha256", "")


def _pin(name: str, version: str) -> str:
    return f"{re.sub('[-_.]+', '-', name).lower()}=={version}"


if __name__ == "__main__":
    sys.exit(main())
