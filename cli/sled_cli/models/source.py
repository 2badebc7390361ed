"""Where a model comes from, read from its text form. Pure: opens nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from sled_cli.models.errors import InvalidSource

_HF: Final = re.compile(
    r"hf://(?P<repo>[\w.-]+/[\w.-]+)/(?P<file>[\w./-]+\.gguf)(?:@(?P<revision>[\w./-]+))?"
)
_HF_FOLDER: Final = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[\w./-]+))?")
_S3: Final = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(?P<key>[^\s?#]+)")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_SCHEME: Final = re.compile(r"[a-z]+://")


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file on this machine, used where it lies."""

    path: Path

    def __str__(self) -> str:
        return self.path.as_uri()


@dataclass(frozen=True, slots=True)
class HubSource:
    """A file of a Hugging Face repository at a revision."""

    repository: str
    file: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"hf://{self.repository}/{self.file}@{self.revision}"


@dataclass(frozen=True, slots=True)
class HubFolderSource:
    """A Hugging Face repository at a revision, for engines that take a folder."""

    repository: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"hf://{self.repository}@{self.revision}"


@dataclass(frozen=True, slots=True)
class BucketSource:
    """An object of an S3 bucket."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True, slots=True)
class CatalogueSource:
    """A model of SLED's own catalogue."""

    name: str

    def __str__(self) -> str:
        return f"catalog://{self.name}"


Source = FileSource | HubSource | HubFolderSource | BucketSource | CatalogueSource


def parse_source(text: str) -> Source:
    """Read `file:///abs.gguf`, `hf://org/repo/path.gguf@revision`, `hf://org/repo@revision` (the
    whole repository), `s3://bucket/key`, `catalog://NAME` or a bare NAME.

    Raises:
        InvalidSource: none of these; the message says what was expected.
    """
    if text.startswith("file://"):
        path = Path(unquote(text.removeprefix("file://")))
        if not path.is_absolute():
            raise InvalidSource(f"{text}: a file source has three slashes and an absolute path")
        return FileSource(path)
    if text.startswith("hf://"):
        return _hub(text)
    if text.startswith("s3://"):
        match = _S3.fullmatch(text)
        if not match or ".." in text:
            raise InvalidSource(f"{text}: expected s3://bucket/key")
        return BucketSource(match["bucket"], match["key"])
    name = text.removeprefix("catalog://")
    if _NAME.fullmatch(name):
        return CatalogueSource(name)
    known = "file:///…, hf://org/repo/path.gguf@revision, s3://bucket/key or catalog://NAME"
    kind = "an unknown scheme" if _SCHEME.match(text) else "no source"
    raise InvalidSource(f"{text!r} is {kind}; expected {known}")


def _hub(text: str) -> HubSource | HubFolderSource:
    if ".." in text:
        raise InvalidSource(f"{text}: expected a path without ..")
    match = _HF.fullmatch(text)
    if match:
        return HubSource(match["repo"], match["file"], match["revision"] or "main")
    match = _HF_FOLDER.fullmatch(text)
    if match and not match["repo"].endswith(".gguf"):
        return HubFolderSource(match["repo"], match["revision"] or "main")
    raise InvalidSource(f"{text}: expected hf://org/repo/path.gguf@revision or hf://org/repo")
