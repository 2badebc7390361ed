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
class CatalogueSource:
    """A model of SLED's own catalogue."""

    name: str

    def __str__(self) -> str:
        return f"catalog://{self.name}"


Source = FileSource | HubSource | CatalogueSource


def parse_source(text: str) -> Source:
    """Read `file:///abs.gguf`, `hf://org/repo/path.gguf@revision`, `catalog://NAME` or a bare NAME.

    Raises:
        InvalidSource: none of these; the message says what was expected.
    """
    if text.startswith("file://"):
        path = Path(unquote(text.removeprefix("file://")))
        if not path.is_absolute():
            raise InvalidSource(f"{text}: a file source has three slashes and an absolute path")
        return FileSource(path)
    if text.startswith("hf://"):
        match = _HF.fullmatch(text)
        if not match or ".." in text:
            raise InvalidSource(f"{text}: expected hf://org/repo/path.gguf@revision")
        return HubSource(match["repo"], match["file"], match["revision"] or "main")
    name = text.removeprefix("catalog://")
    if _NAME.fullmatch(name):
        return CatalogueSource(name)
    known = "file:///…, hf://org/repo/path.gguf@revision or catalog://NAME"
    kind = "an unknown scheme" if _SCHEME.match(text) else "no source"
    raise InvalidSource(f"{text!r} is {kind}; expected {known}")
