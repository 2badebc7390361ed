"""Where the files of Hugging Face repositories are, and what a repository holds.

HF_ENDPOINT names another host, HF_TOKEN is sent to that host and to no other.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any, Final

import httpx

from sled_cli.models.errors import DownloadFailed
from sled_cli.models.source import HubFolderSource, HubSource
from sled_cli.models.transfer import MAX_REDIRECTS, TIMEOUT, Remote

DEFAULT_ENDPOINT: Final = "https://huggingface.co"
MAX_FILES: Final = 2000

_WORDS: Final = {
    401: "the file needs a token (set HF_TOKEN)",
    403: "the token does not open this file",
    404: "there is no such file or revision",
}
_NAME: Final = re.compile(r"[\w+-][\w.+-]*(/[\w+-][\w.+-]*)*")
_COMMIT: Final = re.compile(r"[0-9a-f]{40,64}")
_WANTED: Final = (".safetensors", ".json", ".txt", ".model", ".tiktoken", ".jinja")
_OLD_WEIGHTS: Final = (".bin", ".pt")


def remote(source: HubSource) -> Remote:
    """The file of a source."""
    url = f"{_endpoint()}/{source.repository}/resolve/{source.revision}/{source.file}"
    return Remote(str(source), url, _headers(), _WORDS)


def list_files(source: HubFolderSource) -> list[HubSource]:
    """What an engine needs of a repository, pinned to the commit that the revision names now:
    weights (safetensors where there are any), configuration and tokenizer.

    Raises:
        DownloadFailed: the hub refused, or said nothing that can be used.
    """
    url = f"{_endpoint()}/api/models/{source.repository}/revision/{source.revision}"
    try:
        answer = httpx.Client(timeout=TIMEOUT, follow_redirects=True, max_redirects=MAX_REDIRECTS)
        with answer as client:
            response = client.get(url, headers=_headers())
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise DownloadFailed(f"{source} could not be listed: {reason}") from error
    status = response.status_code
    if status != httpx.codes.OK:
        words = _WORDS.get(status, "the server refused")
        raise DownloadFailed(f"{source}: {words} (HTTP {status})", status)
    commit, names = _listing(source, response)
    return [HubSource(source.repository, name, commit) for name in _needed(names)]


def _listing(source: HubFolderSource, response: httpx.Response) -> tuple[str, list[str]]:
    try:
        body: Any = response.json()
        commit, names = body["sha"], [each["rfilename"] for each in body["siblings"]]
        sound = _COMMIT.fullmatch(commit) and all(isinstance(name, str) for name in names)
    except (ValueError, KeyError, TypeError) as error:
        raise DownloadFailed(f"{source}: the hub's list of files cannot be read") from error
    if not sound or len(names) > MAX_FILES:
        raise DownloadFailed(f"{source}: the hub's list of files cannot be used")
    return commit, names


def _needed(names: Sequence[str]) -> list[str]:
    plain = [name for name in names if _NAME.fullmatch(name) and "/" not in name]
    weights: tuple[str, ...] = _WANTED
    if not any(name.endswith(".safetensors") for name in plain):
        weights += _OLD_WEIGHTS
    return sorted(name for name in plain if name.endswith(weights))


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", DEFAULT_ENDPOINT).rstrip("/")


def _headers() -> dict[str, str]:
    token = os.environ.get("HF_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}
