"""Downloads from a hub: redirect, token, resume, refusals."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from sled_cli.models.errors import ChecksumMismatch, DownloadFailed
from sled_cli.models.progress import Progress, Stage
from sled_cli.models.store import ModelStore

SOURCE = "hf://org/repo/dir/toy.gguf@v1"
Hub = Any
"""The fixture's class (conftest.py)."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path)


def test_a_file_is_fetched_through_the_redirect(hub: Hub, store: ModelStore) -> None:
    seen: list[Progress] = []
    path = store.fetch(SOURCE, sha256(hub.data), seen.append)
    assert path.read_bytes() == hub.data
    assert path.name == "toy.gguf"
    assert hub.seen[0][0] == "/org/repo/resolve/v1/dir/toy.gguf"
    loads = [p for p in seen if p.stage is Stage.DOWNLOAD]
    assert loads[-1] == Progress("toy", Stage.DOWNLOAD, len(hub.data), len(hub.data))


def test_the_second_fetch_asks_nobody(hub: Hub, store: ModelStore) -> None:
    path = store.fetch(SOURCE)
    asked = len(hub.seen)
    assert store.fetch(SOURCE) == path
    assert store.path(SOURCE) == path
    assert len(hub.seen) == asked


def test_the_token_goes_to_the_hub_and_no_further(
    hub: Hub, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "secret"
    monkeypatch.setenv("HF_TOKEN", "secret")
    store.fetch(SOURCE)
    (_, first), (_, second) = hub.seen
    assert first["authorization"] == "Bearer secret"
    assert "authorization" not in second


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "needs a token"), (403, "token"), (404, "no such file"), (500, "HTTP 500")],
)
def test_refusals_are_typed(hub: Hub, store: ModelStore, status: int, words: str) -> None:
    hub.status = status
    with pytest.raises(DownloadFailed, match=words) as caught:
        store.fetch(SOURCE)
    assert caught.value.status == status
    assert store.stored() == []


def test_nobody_there_is_typed(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadFailed, match=r"could not be downloaded"):
        store.fetch(SOURCE)


def test_an_interrupted_download_goes_on_where_it_ended(hub: Hub, store: ModelStore) -> None:
    hub.cut_at = 100_000
    with pytest.raises(DownloadFailed):
        store.fetch(SOURCE)
    hub.cut_at = None
    received: list[int] = []
    path = store.fetch(SOURCE, sha256(hub.data), lambda p: received.append(p.done_bytes))
    assert path.read_bytes() == hub.data
    start = int(hub.seen[-1][1]["range"].removeprefix("bytes=").removesuffix("-"))
    assert 0 < start <= 100_000
    assert received[0] > start
    assert list((store.cache_dir / "partial").iterdir()) == []


def test_a_file_that_changed_in_between_is_begun_anew(hub: Hub, store: ModelStore) -> None:
    hub.cut_at = 100_000
    with pytest.raises(DownloadFailed):
        store.fetch(SOURCE)
    hub.cut_at, hub.tag, hub.data = None, '"v2"', bytes(reversed(hub.data))
    assert store.fetch(SOURCE).read_bytes() == hub.data


def test_without_a_strong_tag_nothing_is_resumed(hub: Hub, store: ModelStore) -> None:
    hub.tag, hub.cut_at = 'W/"v1"', 100_000
    with pytest.raises(DownloadFailed):
        store.fetch(SOURCE)
    hub.cut_at = None
    assert store.fetch(SOURCE).read_bytes() == hub.data
    assert "range" not in hub.seen[-1][1]


def test_a_whole_partial_file_is_accepted_by_its_checksum(hub: Hub, store: ModelStore) -> None:
    hub.cut_at = 100_000
    with pytest.raises(DownloadFailed):
        store.fetch(SOURCE)
    (part,) = (store.cache_dir / "partial").glob("*.part")
    part.write_bytes(hub.data)
    hub.cut_at = None
    assert store.fetch(SOURCE, sha256(hub.data)).read_bytes() == hub.data


def test_other_bytes_than_pinned_are_refused_and_not_kept(hub: Hub, store: ModelStore) -> None:
    with pytest.raises(ChecksumMismatch) as caught:
        store.fetch(SOURCE, "0" * 64)
    assert (caught.value.expected, caught.value.actual) == ("0" * 64, sha256(hub.data))
    assert store.stored() == []
    assert list((store.cache_dir / "partial").iterdir()) == []


def test_other_bytes_than_the_hub_states_are_refused(hub: Hub, store: ModelStore) -> None:
    hub.states_sha256 = "1" * 64
    with pytest.raises(ChecksumMismatch):
        store.fetch(SOURCE)
    hub.states_sha256 = sha256(hub.data)
    assert store.fetch(SOURCE).read_bytes() == hub.data


def test_a_pin_that_differs_from_the_cached_file_keeps_the_cached_file(
    hub: Hub, store: ModelStore
) -> None:
    old = store.fetch(SOURCE)
    with pytest.raises(ChecksumMismatch):
        store.fetch(SOURCE, "0" * 64)
    assert old.is_file()
    assert store.fetch(SOURCE) == old
