"""Objects of an S3 bucket: a server on loopback that checks signatures as S3 documents them."""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import pytest

from sled_cli.models import bucket
from sled_cli.models.errors import ChecksumMismatch, DownloadFailed, InvalidSource
from sled_cli.models.source import BucketSource, parse_source
from sled_cli.models.store import ModelStore

SOURCE = "s3://fleet-models/llm/target.gguf"
DATA = bytes(range(256)) * 500
SETTINGS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION")
ROLES = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")


@dataclass
class S3:
    """One object behind one key pair; `open_to_all` asks for no signature."""

    url: str = ""
    key: str = "AKIATEST"
    secret: str = "very/secret"
    object_path: str = "/fleet-models/llm/target.gguf"
    open_to_all: bool = False
    cut_at: int | None = None
    seen: list[str] = field(default_factory=list)


def signature(s3: S3, host: str, target: str) -> str:
    """AWS Signature Version 4 of a presigned GET (Amazon S3 API reference, "Authenticating
    requests: using query parameters")."""
    parts = urlsplit(target)
    query = sorted((k, v) for k, v in parse_qsl(parts.query) if k != "X-Amz-Signature")
    values = dict(query)
    line = "&".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in query)
    request = f"GET\n{parts.path}\n{line}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD"
    scope = values["X-Amz-Credential"].partition("/")[2]
    text = f"AWS4-HMAC-SHA256\n{values['X-Amz-Date']}\n{scope}\n" + (
        hashlib.sha256(request.encode()).hexdigest()
    )
    key = f"AWS4{s3.secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()


class _Handler(BaseHTTPRequestHandler):
    s3: S3
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.s3.seen.append(self.path)
        query = dict(parse_qsl(urlsplit(self.path).query))
        if not self.s3.open_to_all:
            right = "X-Amz-Signature" in query and query["X-Amz-Credential"].startswith(self.s3.key)
            host = str(self.headers["Host"])
            if not right or query["X-Amz-Signature"] != signature(self.s3, host, self.path):
                return self._answer(403, b"")
        if urlsplit(self.path).path != self.s3.object_path:
            return self._answer(404, b"")
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        return self._answer(206 if start else 200, DATA[start:], start)

    def _answer(self, code: int, body: bytes, start: int = 0) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"e1"')
        if code == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(DATA) - 1}/{len(DATA)}")
        self.end_headers()
        cut, self.s3.cut_at = self.s3.cut_at, None
        if cut is not None:
            self.close_connection = True
        self.wfile.write(body[:cut])


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    for name in (*SETTINGS, *ROLES, "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    found = S3()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"s3": found}))
    found.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", found.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", found.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", found.secret)
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_object_is_fetched_with_a_signature_and_only_once(s3: S3, tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    path = store.fetch(SOURCE, hashlib.sha256(DATA).hexdigest())
    assert path.name == "target.gguf"
    assert path.read_bytes() == DATA
    assert store.fetch(SOURCE) == store.path(SOURCE) == path
    assert len(s3.seen) == 1
    assert "%2Feu-north-1%2Fs3%2F" in s3.seen[0]


def test_an_interrupted_transfer_goes_on_where_it_ended(s3: S3, tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    s3.cut_at = 1000
    with pytest.raises(DownloadFailed):
        store.fetch(SOURCE)
    assert store.fetch(SOURCE).read_bytes() == DATA
    assert len(s3.seen) == 2


def test_a_public_bucket_needs_no_credentials(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    s3.open_to_all = True
    assert ModelStore(tmp_path).fetch(SOURCE).read_bytes() == DATA
    assert "X-Amz" not in s3.seen[0]


def test_refusals_name_the_object_and_no_secret(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DownloadFailed, match="no such bucket or object") as absent:
        ModelStore(tmp_path).fetch("s3://fleet-models/llm/other.gguf")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong/secret")
    with pytest.raises(DownloadFailed, match="do not open this object") as closed:
        ModelStore(tmp_path).fetch(SOURCE)
    for said in (str(absent.value), str(closed.value)):
        assert "X-Amz" not in said
        assert "secret" not in said
    assert "X-Amz" not in repr(bucket.remote(BucketSource("b1-models", "k")))


def test_other_bytes_than_pinned_are_refused(s3: S3, tmp_path: Path) -> None:
    with pytest.raises(ChecksumMismatch):
        ModelStore(tmp_path).fetch(SOURCE, "0" * 64)


def test_an_endpoint_that_is_no_address_is_named(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "somewhere")
    with pytest.raises(DownloadFailed, match="AWS_ENDPOINT_URL is not an address"):
        bucket.remote(BucketSource("b1-models", "k"))


@pytest.mark.parametrize(
    "text",
    ["s3://", "s3://bucket", "s3://bucket/", "s3://UPPER/k", "s3://b1b/../k", "s3://b1b/a?b"],
)
def test_what_names_no_object_is_refused(text: str) -> None:
    with pytest.raises(InvalidSource):
        parse_source(text)
