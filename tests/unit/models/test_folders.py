"""Whole repositories: what is taken, pinned to a commit, from the cache the second time."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sled_cli.models.errors import DownloadFailed, InvalidSource, UnknownModel
from sled_cli.models.source import HubFolderSource, parse_source
from sled_cli.models.store import ModelStore

COMMIT = "c0ffee" * 7
SOURCE = "hf://org/repo@main"
WANTED = ["config.json", "model.safetensors", "tokenizer.json"]
OTHERS = ["README.md", "model.gguf", "onnx/model.onnx", "pytorch_model.bin", "../evil.json", "a.py"]


@dataclass
class Repository:
    """A hub with one repository; every file holds its own name."""

    files: list[str] = field(default_factory=lambda: [*WANTED, *OTHERS])
    commit: str = COMMIT
    refuse: str = ""
    seen: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    hub: Repository
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.hub.seen.append(self.path)
        if self.path == "/api/models/org/repo/revision/main":
            siblings = [{"rfilename": name} for name in self.hub.files]
            self._answer(200, json.dumps({"sha": self.hub.commit, "siblings": siblings}).encode())
            return
        prefix = f"/org/repo/resolve/{COMMIT}/"
        name = self.path.removeprefix(prefix)
        known = self.path.startswith(prefix) and name != self.hub.refuse
        self._answer(200 if known else 404, name.encode())

    def _answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    found = Repository()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": found}))
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_an_engine_needs_is_taken_and_nothing_else(hub: Repository, tmp_path: Path) -> None:
    folder = ModelStore(tmp_path).fetch(SOURCE)
    assert sorted(each.name for each in folder.iterdir()) == WANTED
    for each in folder.iterdir():
        assert each.read_text() == each.name


def test_old_weights_are_taken_where_there_are_no_others(hub: Repository, tmp_path: Path) -> None:
    hub.files.remove("model.safetensors")
    folder = ModelStore(tmp_path).fetch(SOURCE)
    assert (folder / "pytorch_model.bin").is_file()


def test_the_second_fetch_asks_nobody_and_a_moved_cache_still_works(
    hub: Repository, tmp_path: Path
) -> None:
    folder = ModelStore(tmp_path / "a").fetch(SOURCE)
    asked = len(hub.seen)
    assert ModelStore(tmp_path / "a").fetch(SOURCE) == folder
    assert ModelStore(tmp_path / "a").path(SOURCE) == folder
    (tmp_path / "a").rename(tmp_path / "b")
    assert (ModelStore(tmp_path / "b").fetch(SOURCE) / "config.json").read_text() == "config.json"
    assert len(hub.seen) == asked


def test_a_file_that_cannot_be_had_leaves_no_folder(hub: Repository, tmp_path: Path) -> None:
    hub.refuse = "tokenizer.json"
    with pytest.raises(DownloadFailed, match="no such file"):
        ModelStore(tmp_path).fetch(SOURCE)
    with pytest.raises(UnknownModel):
        ModelStore(tmp_path).path(SOURCE)
    hub.refuse = ""
    assert ModelStore(tmp_path).fetch(SOURCE).is_dir()


def test_what_is_removed_is_gone_with_its_files(hub: Repository, tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    store.fetch(SOURCE)
    assert store.remove(SOURCE) == sum(len(name) for name in WANTED)
    assert store.stored() == []
    assert store.remove(SOURCE) == 0


@pytest.mark.parametrize(
    ("commit", "files", "words"),
    [
        ("main; rm -rf", WANTED, "cannot be used"),
        (COMMIT, ["x.json"] * 3000, "cannot be used"),
        (COMMIT, ["tokenizer.json"], "no config.json"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused(
    hub: Repository, tmp_path: Path, commit: str, files: list[str], words: str
) -> None:
    hub.commit, hub.files = commit, files
    with pytest.raises(DownloadFailed, match=words):
        ModelStore(tmp_path).fetch(SOURCE)


def test_a_checksum_for_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSource, match="pin it as @COMMIT"):
        ModelStore(tmp_path).fetch(SOURCE, "a" * 64)


def test_the_text_form() -> None:
    assert parse_source("hf://org/re.po") == HubFolderSource("org/re.po", "main")
    assert str(parse_source("hf://org/repo@refs/pr/1")) == "hf://org/repo@refs/pr/1"
