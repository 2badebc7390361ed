"""Who may talk to this replica: bearer tokens from a file, read again when it changes. Must never
log or echo a token.

A line of the file is `device-id:token`, which lets one device in under that name, or `*:token`,
which lets any in. Only SHA-256 digests stay in memory; a presented token is hashed before it is
looked up, so timing tells nothing about the tokens that are valid, and the final comparison takes
constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sled_protocol.limits import MAX_DEVICE_ID_BYTES, MAX_TOKEN_BYTES
from sled_verifier.refusal import ConfigError, Reason, Refusal

_log = logging.getLogger(__name__)

ANY_DEVICE = "*"
MIN_TOKEN_CHARACTERS = 16
MAX_TOKEN_FILE_BYTES = 16 * 1024 * 1024

Metadata = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Grant:
    """Proof that a valid token was presented; `device_id` None allows any name."""

    digest: bytes
    device_id: str | None

    def check_device(self, device_id: str) -> None:
        """Refuse another device's name.

        Raises:
            Refusal: UNAUTHENTICATED.
        """
        if self.device_id is not None and self.device_id != device_id:
            raise Refusal(Reason.UNAUTHENTICATED, "the token belongs to another device")


def parse_tokens(text: str, source: str) -> dict[bytes, Grant]:
    """The grant of each token, by digest. Blank lines and lines that begin with # are skipped.

    Raises:
        ConfigError: a line is not `device-id:token`, a token is short, or a token stands twice.
            Names the line, not the token.
    """
    tokens: dict[bytes, Grant] = {}
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        device, colon, token = line.partition(":")
        device, token = device.strip(), token.strip()
        where = f"{source} line {number}"
        if not colon or not device or ":" in token or len(device.encode()) > MAX_DEVICE_ID_BYTES:
            raise ConfigError(f"{where}: expected `device-id:token` or `*:token` with one colon")
        if not MIN_TOKEN_CHARACTERS <= len(token) <= MAX_TOKEN_BYTES or not token.isascii():
            raise ConfigError(
                f"{where}: the token must have {MIN_TOKEN_CHARACTERS} to {MAX_TOKEN_BYTES} "
                "ASCII characters"
            )
        digest = _digest(token)
        if digest in tokens:
            raise ConfigError(f"{where}: the same token stands on an earlier line")
        tokens[digest] = Grant(digest, None if device == ANY_DEVICE else device)
    return tokens


class TokenFile:
    """The device tokens of one file. A changed file is read at the next check; one that cannot be
    read keeps the old tokens.

    Raises:
        ConfigError: at the first reading, when the file is missing or malformed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._tokens: dict[bytes, Grant] = {}
        self._reload()

    def authenticate(self, metadata: Metadata | None) -> Grant:
        """The grant for a call's metadata.

        Raises:
            Refusal: UNAUTHENTICATED.
        """
        self._refresh()
        digest = _digest(_bearer(metadata))
        grant = self._tokens.get(digest)
        if grant is None or not hmac.compare_digest(grant.digest, digest):
            raise Refusal(Reason.UNAUTHENTICATED, "the bearer token is not known here")
        return grant

    def check(self, grant: Grant) -> None:
        """Refuse a grant whose token has been withdrawn since.

        Raises:
            Refusal: UNAUTHENTICATED.
        """
        self._refresh()
        if self._tokens.get(grant.digest) != grant:
            raise Refusal(Reason.UNAUTHENTICATED, "the bearer token has been withdrawn")

    def _refresh(self) -> None:
        try:
            if self._read_stamp() != self._stamp:
                self._reload()
                _log.info("device tokens read again", extra={"tokens": len(self._tokens)})
        except (ConfigError, OSError) as error:
            _log.error("device tokens not read, the old ones stay", extra={"error": str(error)})

    def _read_stamp(self) -> tuple[int, int, int]:
        status = self._path.stat()
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _reload(self) -> None:
        try:
            stamp = self._read_stamp()
            # Remembered first: a malformed file is reported once, not at every call.
            self._stamp = stamp
            if stamp[1] > MAX_TOKEN_FILE_BYTES:
                raise ConfigError(f"{self._path} is larger than {MAX_TOKEN_FILE_BYTES} bytes")
            text = self._path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"auth.tokensFile: {error}") from error
        self._tokens = parse_tokens(text, str(self._path))


class OpenDoor:
    """No authentication: every caller is let in under any name."""

    def authenticate(self, metadata: Metadata | None) -> Grant:
        """See `TokenFile.authenticate`; never refuses."""
        return Grant(b"", None)

    def check(self, grant: Grant) -> None:
        """See `TokenFile.check`; never refuses."""


Door = TokenFile | OpenDoor


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _bearer(metadata: Metadata | None) -> str:
    values = [value for key, value in metadata or () if key == "authorization"]
    if len(values) != 1 or not isinstance(values[0], str):
        raise Refusal(
            Reason.UNAUTHENTICATED,
            "the call needs one metadata entry `authorization: Bearer TOKEN`",
        )
    scheme, _, token = values[0].partition(" ")
    if scheme.lower() != "bearer" or not token or len(token) > MAX_TOKEN_BYTES:
        raise Refusal(Reason.UNAUTHENTICATED, "the authorization entry is not `Bearer TOKEN`")
    return token.strip()
