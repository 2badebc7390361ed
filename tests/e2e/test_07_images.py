"""What an image says of itself, and that two builds of the same inputs are the same image."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from sled_testkit import node_base, node_images
from sled_testkit.image_archive import configuration, unpack

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ("operator", "verifier", "edge")
ARCH = node_base.native_arch()


@pytest.fixture(scope="module")
def archives(provided: None, progress: Callable[[str], None]) -> dict[str, Path]:
    """This machine's images by name."""
    return dict(zip(IMAGES, node_images.project_images(progress, ARCH, IMAGES), strict=True))


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_needs_no_rights_and_no_shell_and_lists_what_is_in_it(
    archives: dict[str, Path], tmp_path: Path, image: str
) -> None:
    config = configuration(archives[image])["config"]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    labels = {key.rpartition(".")[2]: value for key, value in config["Labels"].items()}
    assert (labels["title"], labels["version"]) == (f"sled-{image}", version)
    assert (labels["licenses"], config["User"]) == ("Apache-2.0", "65532:65532")
    assert re.fullmatch("[0-9a-f]{40}", labels["revision"])
    root = unpack(archives[image], tmp_path)
    (program,) = config["Entrypoint"]
    first = (root / program.lstrip("/")).read_text().splitlines()[0]
    assert first == f"#!{node_base.INTERPRETER}"
    bill = json.loads((root / "opt/sled/sbom.cdx.json").read_text())
    held = {(each["name"], each["version"]) for each in bill["components"]}
    assert bill["bomFormat"] == "CycloneDX"
    assert ("sled-inference", version) in held
    assert {_normal(name) for name, _ in held} >= _locked(image) | {"libc6", "python3"}


def test_two_builds_are_the_same_image(
    archives: dict[str, Path],
    tmp_path: Path,
    progress: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second one in a store of its own, so that nothing of the first is reused."""
    settings = tmp_path / "storage.conf"
    folders = f'graphroot = "{tmp_path}/store"\nrunroot = "{tmp_path}/run"\n'
    settings.write_text(f'[storage]\ndriver = "{node_images.DRIVER}"\n{folders}')
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(settings))
    (again,) = node_images.project_images(progress, ARCH, ("operator",), tmp_path / "out")
    layers = configuration(again)["rootfs"]["diff_ids"]
    assert len(layers) > 2
    assert layers == configuration(archives["operator"])["rootfs"]["diff_ids"]


def _locked(image: str) -> set[str]:
    text = (ROOT / "images" / image / "requirements.lock").read_text()
    names = re.findall(r"^([A-Za-z0-9_.-]+)==", text, re.MULTILINE)
    return {_normal(name) for name in names} - {"pip"}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
