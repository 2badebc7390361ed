"""Server credentials from files, read again when the files change. Must not decide whether TLS is
needed; `config` does.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import grpc

from sled_verifier.refusal import ConfigError

_log = logging.getLogger(__name__)

Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of a certificate chain, its key and (for mutual TLS) the authority of the devices'
    certificates; all PEM.
    """

    cert_file: Path
    key_file: Path
    client_ca_file: Path | None = None

    def stamp(self) -> Stamp:
        """Changes when any of the files does; raises OSError when one is missing."""
        statuses = [
            path.stat() for path in (self.cert_file, self.key_file, self.client_ca_file) if path
        ]
        return tuple((s.st_mtime_ns, s.st_size, s.st_ino) for s in statuses)

    def read(self) -> grpc.ServerCertificateConfiguration:
        """The certificates as gRPC takes them; raises OSError."""
        ca = None if self.client_ca_file is None else self.client_ca_file.read_bytes()
        pair = (self.key_file.read_bytes(), self.cert_file.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=ca)


class CertificateReloader:
    """Hands gRPC a new configuration at the first handshake after the files changed, else None.

    Raises:
        ConfigError: at the start, when a file cannot be read. Later the old certificates stay in
            use and an error is logged.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        try:
            self._stamp = files.stamp()
            self.initial = files.read()
        except OSError as error:
            raise ConfigError(f"tls: {error}") from error

    def __call__(self) -> grpc.ServerCertificateConfiguration:
        """Called by gRPC, in a thread of its own, at every handshake."""
        # gRPC takes None for "unchanged", which its type stubs do not know.
        return cast("grpc.ServerCertificateConfiguration", self._changed())

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        try:
            stamp = self._files.stamp()
            if stamp == self._stamp:
                return None
            fresh = self._files.read()
        except OSError as error:
            _log.error("certificates not read, the old ones stay", extra={"error": str(error)})
            return None
        self._stamp = stamp
        _log.info("certificates read again")
        return fresh


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials that follow the files; devices must show a certificate when there is a client
    authority.

    Raises:
        ConfigError: a file cannot be read.
    """
    reloader = CertificateReloader(files)
    return grpc.dynamic_ssl_server_credentials(
        reloader.initial,
        reloader,
        require_client_authentication=files.client_ca_file is not None,
    )
