"""Write each image's `requirements.lock`: every package pinned, with the hashes of its wheels.

Run by hand when pyproject.toml changes or versions are to move: `.venv/bin/python images/lock.py`. Must not be run by a build.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
EXTRAS = {"operator": "operator", "verifier": "verifier-image", "edge": "edge-image"}
PYTHONS = ("3.11", "3.12", "3.13")
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
GLIBC = ("2_34", "2_28", "2_27", "2_24", "2_17")


def platforms(arch: str) -> list[str]:
    """pip's platform flags of one architecture, newest C library first."""
    machine = MACHINES[arch]
    flags = [f"--platform=manylinux_{version}_{machine}" for version in GLIBC]
    return [*flags, f"--platform=manylinux2014_{machine}"]


def main() -> int:
    """Resolve each image's extra once, then collect the hashes for all Pythons and machines."""
    pins = {image: _resolve(extra) for image, extra in EXTRAS.items()}
    everything = sorted({pin for some in pins.values() for pin in some})
    hashes: dict[str, set[str]] = defaultdict(set)
    for python in PYTHONS:
        for arch in MACHINES:
            for pin, digest in _download(everything, python, arch):
                hashes[pin].add(digest)
    for image, some in pins.items():
        lines = [f"# Extra {EXTRAS[image]}; written by images/lock.py, do not edit."]
        for pin in some:
            digests = sorted(hashes[pin])
            lines.append(" \\\n    ".join([pin, *(f"--hash=sha256:{each}" for each in digests)]))
        (HERE / image / "requirements.lock").write_text("\n".join(lines) + "\n")
        print(f"{image}: {len(some)} packages")
    return 0


def _resolve(extra: str) -> list[str]:
    """Exact versions that satisfy the extra: the oldest Python decides. pip comes along, to install."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", folder]
        command += ["--only-binary=:all:", f"--python-version={PYTHONS[0]}", *platforms("amd64")]
        wheel = _wheel(Path(folder) / "own")
        subprocess.run([*command, "pip", f"{wheel}[{extra}]"], check=True)
        found = {_pin(path) for path in Path(folder).glob("*.whl")}
        return sorted(pin for pin in found if not pin.startswith("sled-inference=="))


def _wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("*.whl"))


def _download(pins: list[str], python: str, arch: str) -> list[tuple[str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", f"--python-version={python}", *platforms(arch)]
        subprocess.run([*command, f"--dest={folder}", *pins], check=True)
        found = sorted(Path(folder).glob("*.whl"))
        return [(_pin(each), hashlib.sha256(each.read_bytes()).hexdigest()) for each in found]


def _pin(wheel: Path) -> str:
    name, version = wheel.name.split("-")[:2]
    return f"{name.lower().replace('_', '-').replace('.', '-')}=={version}"


if __name__ == "__main__":
    sys.exit(main())
