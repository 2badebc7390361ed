"""What a document may say about running it on one machine, in annotations of `local.sled.dev`.

A cluster ignores them. The CRDs have no local fields: where a fleet is developed is not part of
what it is. Reads values only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sled_cli.errors import BadInput
from sled_cli.up.documents import Document

PREFIX: Final = "local.sled.dev/"
PORT: Final = PREFIX + "port"
"""SLEDServer: gRPC port of the first replica; metrics are on the next port, further replicas on the
two after that. EdgeDrafter: HTTP port of the first device; further devices follow."""
DEVICES: Final = PREFIX + "devices"
"""EdgeDrafter: how many devices to run ("2"), or their classes ("pi5,orin-nano"). Without it one
device of class `local`."""
TOKEN_FILE: Final = PREFIX + "token-file"
"""EdgeDrafter with `server.address`: file with the bearer token, relative to the document."""
CA_FILE: Final = PREFIX + "ca-file"
"""EdgeDrafter with `server.address`: file with the certificate authority, relative to the
document."""

MAX_DEVICES: Final = 128
DEFAULT_CLASS: Final = "local"
_OF_SERVERS: Final = (PORT,)
_OF_DRAFTERS: Final = (PORT, DEVICES, TOKEN_FILE, CA_FILE)


@dataclass(frozen=True, slots=True)
class Local:
    """The annotations of one document, checked."""

    port: int | None
    device_classes: tuple[str, ...]
    token_file: Path | None
    ca_file: Path | None


def of_server(document: Document) -> Local:
    """The annotations of a SLEDServer.

    Raises:
        BadInput: an annotation of ours is unknown or wrong.
    """
    return _read(document, _OF_SERVERS)


def of_drafter(document: Document) -> Local:
    """The annotations of an EdgeDrafter; raises as `of_server` does."""
    return _read(document, _OF_DRAFTERS)


def _read(document: Document, known: tuple[str, ...]) -> Local:
    found = document.resource.metadata.annotations
    for key in found:
        if key.startswith(PREFIX) and key not in known:
            raise _wrong(document, key, f"unknown; known here: {', '.join(known)}")
    return Local(
        port=_port(document, found),
        device_classes=_classes(document, found),
        token_file=_file(document, found, TOKEN_FILE),
        ca_file=_file(document, found, CA_FILE),
    )


def _port(document: Document, found: Mapping[str, str]) -> int | None:
    if PORT not in found:
        return None
    text = found[PORT].strip()
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65_535):
        raise _wrong(document, PORT, f"'{text}' is not a port between 1 and 65535")
    return int(text)


def _classes(document: Document, found: Mapping[str, str]) -> tuple[str, ...]:
    text = found.get(DEVICES, "1").strip()
    if text.isascii() and text.isdigit():
        classes: tuple[str, ...] = (DEFAULT_CLASS,) * min(int(text), MAX_DEVICES + 1)
    else:
        classes = tuple(name.strip() for name in text.split(","))
        if not all(name.isprintable() and 0 < len(name) <= 63 for name in classes):
            raise _wrong(
                document, DEVICES, f"'{text}' is neither a number nor a list of device classes"
            )
    if not 1 <= len(classes) <= MAX_DEVICES:
        raise _wrong(document, DEVICES, f"asks for a number of devices outside 1 to {MAX_DEVICES}")
    return classes


def _file(document: Document, found: Mapping[str, str], key: str) -> Path | None:
    if key not in found:
        return None
    return document.file.parent / found[key]


def _wrong(document: Document, key: str, sentence: str) -> BadInput:
    return BadInput(f"{document.where}: metadata.annotations[{key}]: {sentence}")
