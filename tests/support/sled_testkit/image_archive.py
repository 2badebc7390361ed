"""Looks into a Docker archive as a container runtime would: configuration and files. Must not run anything."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any


def configuration(archive: Path) -> dict[str, Any]:
    """The image's configuration: architecture, user, entry point, labels, digests of its layers."""
    with tarfile.open(archive) as tar:
        (manifest,) = json.loads(_member(tar, "manifest.json"))
        found: dict[str, Any] = json.loads(_member(tar, manifest["Config"]))
    return found


def unpack(archive: Path, folder: Path) -> Path:
    """All files of the image under a folder; returns it."""
    layers = folder / "layers"
    with tarfile.open(archive) as tar:
        tar.extractall(layers, filter="fully_trusted")
    (manifest,) = json.loads((layers / "manifest.json").read_text())
    for layer in manifest["Layers"]:
        with tarfile.open(layers / layer) as tar:
            tar.extractall(folder / "root", filter="fully_trusted")
    return folder / "root"


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    content = tar.extractfile(name)
    if content is None:
        raise ValueError(f"the archive has no file {name}")
    return content.read()
