"""Finds the SLEDServer and EdgeDrafter documents in files and folders. Runs nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sled_cli.errors import BadInput
from sled_cli.up.yamlfile import MAX_FILE_BYTES, read_documents
from sled_operator.spec import GROUP, EdgeDrafter, InvalidResource, SLEDServer, parse

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Document:
    """One resource and where it was found."""

    resource: SLEDServer | EdgeDrafter
    file: Path
    number: int
    """Position in the file, from 1."""

    @property
    def where(self) -> str:
        """File, document and kind, as errors begin."""
        kind = type(self.resource).__name__
        name = self.resource.metadata.name
        return f"{self.file}, document {self.number} ({kind} {name})"


@dataclass(frozen=True, slots=True)
class Reading:
    """What a set of files holds."""

    documents: tuple[Document, ...]
    warnings: tuple[str, ...]
    """A sentence for each document that is of no use here."""

    def servers(self) -> Iterator[tuple[Document, SLEDServer]]:
        """The SLEDServers, in order."""
        for document in self.documents:
            if isinstance(document.resource, SLEDServer):
                yield document, document.resource

    def drafters(self) -> Iterator[tuple[Document, EdgeDrafter]]:
        """The EdgeDrafters, in order."""
        for document in self.documents:
            if isinstance(document.resource, EdgeDrafter):
                yield document, document.resource


def read(paths: Iterable[Path]) -> Reading:
    """Read files, and folders as `kubectl apply -f DIR` does: their YAML files by name, no
    subfolders.

    Raises:
        BadInput: a path is missing, a file cannot be read, or a document of ours is wrong; the
        message names file, document and field.
    """
    documents: list[Document] = []
    warnings: list[str] = []
    for path in paths:
        for file in _files(path):
            _read_file(file, documents, warnings)
    return Reading(tuple(documents), tuple(warnings))


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file())
        if not found:
            raise BadInput(f"{path}: no file here ends in {' or '.join(SUFFIXES)}")
        return found
    if not path.exists():
        raise BadInput(f"{path}: no such file or folder")
    return [path]


def _read_file(file: Path, documents: list[Document], warnings: list[str]) -> None:
    for number, content in read_documents(_text(file), str(file)):
        where = f"{file}, document {number}"
        if not isinstance(content, dict):
            raise BadInput(f"{where}: the document is not a mapping")
        group = str(content.get("apiVersion", "")).partition("/")[0]
        if group != GROUP:
            warnings.append(f"{where}: {_kind(content)} is not a resource of SLED, skipped")
            continue
        try:
            resource = parse(content)
        except InvalidResource as error:
            raise BadInput(f"{where}: {error}") from error
        documents.append(Document(resource, file, number))


def _kind(content: dict[Any, Any]) -> str:
    kind = str(content.get("kind", "a document without kind"))
    return kind[:60]


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise BadInput(f"{file}: larger than {MAX_FILE_BYTES} bytes")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file}: cannot be read: {error}") from error
