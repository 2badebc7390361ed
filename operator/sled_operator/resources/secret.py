"""Secrets of a SLEDServer: certificate authority, serving certificate, device tokens. Pure: keys
and tokens are made elsewhere and passed in."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from sled_operator.resources.base import Manifest, manifest, server_owner
from sled_operator.spec import SLEDServer


def ca_secret_name(server: SLEDServer) -> str:
    """Secret with the CA's key; mounted nowhere."""
    return f"{server.metadata.name}-ca"


def tls_secret_name(server: SLEDServer) -> str:
    """Secret with tls.crt, tls.key and ca.crt, whoever made it."""
    own = server.spec.tls.secret_name if server.spec.tls.mode == "Secret" else None
    return own or f"{server.metadata.name}-tls"


def tokens_secret_name(server: SLEDServer) -> str:
    """Secret with the device tokens, whoever made it."""
    return server.spec.auth.secret_name or f"{server.metadata.name}-tokens"


def secret(
    server: SLEDServer, name: str, data: Mapping[str, bytes], kind: str = "Opaque"
) -> Manifest:
    """A Secret of one server."""
    encoded = {key: base64.b64encode(value).decode() for key, value in sorted(data.items())}
    return manifest(server_owner(server), "v1", "Secret", name, {"type": kind, "data": encoded})
