"""One file over HTTP: streamed, and resumed where a former try ended. Knows no host."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from sled_cli.models.errors import DownloadFailed
from sled_cli.models.files import require_space

MAX_FILE_BYTES: Final = 512 * 1024**3
TIMEOUT: Final = httpx.Timeout(30.0)
MAX_REDIRECTS: Final = 5

_RANGE_START: Final = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_LINKED_TAG: Final = re.compile(r'"?([0-9a-f]{64})"?')


@dataclass(frozen=True, slots=True)
class Remote:
    """Where a file is. The address may carry a signature and the headers a token: neither is ever
    shown."""

    name: str
    """The source as a person wrote it, for messages."""
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent to that host and to no other."""
    words: Mapping[int, str] = field(default_factory=dict)
    """What an HTTP status means here."""


def download(remote: Remote, part: Path, on_bytes: Callable[[int, int | None], None]) -> str | None:
    """Bring `part` (absent, or what a former try left) to the whole file.

    Returns the SHA-256 that the host states for it, None when it states none. `on_bytes` is told
    the bytes so far and in all (None when the server does not say).

    Raises:
        DownloadFailed: `part` then holds what was received.
        NotEnoughSpace: nothing was received.
    """
    client = httpx.Client(
        timeout=TIMEOUT,
        follow_redirects=True,
        max_redirects=MAX_REDIRECTS,
        headers=dict(remote.headers),
    )
    try:
        with client:
            return _transfer(client, remote, part, on_bytes)
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise DownloadFailed(f"{remote.name} could not be downloaded: {reason}") from error


def _transfer(
    client: httpx.Client,
    remote: Remote,
    part: Path,
    on_bytes: Callable[[int, int | None], None],
) -> str | None:
    tag_file = part.with_suffix(".tag")
    have = part.stat().st_size if part.is_file() and tag_file.is_file() else 0
    # If-Range: the server sends the rest only when the file is still the one that the first part
    # came from.
    request = {"Accept-Encoding": "identity"}
    if have:
        request |= {"Range": f"bytes={have}-", "If-Range": tag_file.read_text()}
    with client.stream("GET", remote.url, headers=request) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            # Nothing is left to send, or the file has changed; the checksum tells the one from the
            # other.
            on_bytes(have, have)
            return _stated_sha256(response)
        if response.status_code not in (200, 206):
            status = response.status_code
            words = remote.words.get(status, "the server refused")
            raise DownloadFailed(f"{remote.name}: {words} (HTTP {status})", status)
        start, total = _extent(response, have)
        _require_plausible(remote, part, start, total)
        # A weak tag cannot be used for resuming (RFC 9110, section 13.1.5).
        tag = response.headers.get("ETag", "")
        if tag and not tag.startswith("W/"):
            tag_file.write_text(tag)
        else:
            tag_file.unlink(missing_ok=True)
        _write(response, part, start, total, on_bytes)
    if total is not None and part.stat().st_size != total:
        raise DownloadFailed(f"{remote.name}: {part.stat().st_size} of {total} bytes were received")
    return _stated_sha256(response)


def _stated_sha256(response: httpx.Response) -> str | None:
    # The hub's own answer carries it for large files, whose bytes then come from another host by
    # redirect.
    for answer in (*response.history, response):
        match = _LINKED_TAG.fullmatch(answer.headers.get("X-Linked-Etag", ""))
        if match:
            return match[1]
    return None


def _extent(response: httpx.Response, have: int) -> tuple[int, int | None]:
    """Where the body starts in the file, and how long the file is."""
    length = response.headers.get("Content-Length")
    size = int(length) if length and length.isdigit() else None
    if response.status_code != httpx.codes.PARTIAL_CONTENT:
        return 0, size
    match = _RANGE_START.fullmatch(response.headers.get("Content-Range", ""))
    if not match or int(match[1]) != have:
        raise DownloadFailed("the server sent another part of the file than was asked for")
    return have, None if match[2] == "*" else int(match[2])


def _require_plausible(remote: Remote, part: Path, start: int, total: int | None) -> None:
    if total is None:
        return
    if total > MAX_FILE_BYTES:
        raise DownloadFailed(f"{remote.name} has {total} bytes; allowed: {MAX_FILE_BYTES}")
    require_space(part.parent, total - start)


def _write(
    response: httpx.Response,
    part: Path,
    start: int,
    total: int | None,
    on_bytes: Callable[[int, int | None], None],
) -> None:
    limit = MAX_FILE_BYTES if total is None else total
    done = start
    with part.open("ab" if start else "wb") as file:
        for block in response.iter_raw():
            done += len(block)
            if done > limit:
                raise DownloadFailed(f"the server sent more than the {limit} bytes it announced")
            file.write(block)
            on_bytes(done, total)
