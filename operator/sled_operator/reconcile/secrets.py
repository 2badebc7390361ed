"""Makes sure that the Secrets of a SLEDServer are there: CA, certificate, tokens.

Secrets are read one by one and never listed or watched, so the operator's rights stay narrow. What
is stored and still good is kept byte for byte, so a second look writes nothing.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from datetime import datetime

from sled_operator import certificates, tokens
from sled_operator.autoscaler.stats import Access
from sled_operator.cluster import kinds
from sled_operator.cluster.base import Object, Reader
from sled_operator.conditions import Reason
from sled_operator.resources.base import Manifest
from sled_operator.resources.optional import dns_names
from sled_operator.resources.secret import (
    ca_secret_name,
    secret,
    tls_secret_name,
    tokens_secret_name,
)
from sled_operator.resources.service import server_host
from sled_operator.server_status import Problem
from sled_operator.spec import SLEDServer


@dataclass(slots=True)
class Kept:
    """What the Secrets should be, and what they hold."""

    manifests: list[Manifest] = field(default_factory=list)
    observed: list[Object] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    access: Access = field(default_factory=Access)
    renew_seconds: float | None = None
    """When the certificate is due."""


async def keep(reader: Reader, server: SLEDServer, now: datetime) -> Kept:
    """Read what there is and say what there should be."""
    kept = Kept()
    ca, serving = await _own(reader, server, kept), None
    if server.spec.tls.mode == "SelfSigned":
        serving = _self_signed(server, ca, kept, now)
    elif server.spec.tls.mode != "Disabled":
        serving = await _given(
            reader, server, tls_secret_name(server), ("tls.crt", "tls.key", "ca.crt"), kept
        )
    token = await _tokens(reader, server, kept)
    kept.access = Access(
        ca=(serving or {}).get("ca.crt"),
        server_name=server_host(server),
        token=(token or {}).get("token", b"").decode(errors="replace").strip() or None,
    )
    return kept


async def _own(reader: Reader, server: SLEDServer, kept: Kept) -> dict[str, Object]:
    """The Secrets that we may have made, by name; only those that are ours."""
    name = server.metadata.name
    found = {}
    for candidate in (ca_secret_name(server), f"{name}-tls", f"{name}-tokens"):
        document = await reader.get(kinds.SECRET, server.metadata.namespace, candidate)
        if document is None:
            continue
        owners = document["metadata"].get("ownerReferences", ())
        if any(owner.get("uid") == server.metadata.uid for owner in owners):
            document["apiVersion"], document["kind"] = "v1", "Secret"
            if not any(owner.get("kind") == "Certificate" for owner in owners):
                kept.observed.append(document)
                found[candidate] = document
    return found


def _self_signed(
    server: SLEDServer, own: dict[str, Object], kept: Kept, now: datetime
) -> dict[str, bytes]:
    names = dns_names(server)
    ca = _pair(decoded(own.get(ca_secret_name(server))))
    if ca is None:
        ca = certificates.make_ca(server.metadata.name, now)
    stored = decoded(own.get(tls_secret_name(server)))
    serving = _pair(stored)
    if serving is None or not certificates.fits(serving.certificate, ca.certificate, names, now):
        serving = certificates.make_serving(ca, names, server.spec.tls.certificate_days, now)
    data = {"tls.crt": serving.certificate, "tls.key": serving.key, "ca.crt": ca.certificate}
    authority = {"tls.crt": ca.certificate, "tls.key": ca.key}
    kind = "kubernetes.io/tls"
    kept.manifests.append(secret(server, ca_secret_name(server), authority, kind))
    kept.manifests.append(secret(server, tls_secret_name(server), data, kind))
    due = certificates.renew_at(serving.certificate) - now
    kept.renew_seconds = max(60.0, due.total_seconds())
    return data


def _pair(data: dict[str, bytes]) -> certificates.KeyPair | None:
    if not data.get("tls.key") or not data.get("tls.crt"):
        return None
    return certificates.KeyPair(data["tls.key"], data["tls.crt"])


async def _tokens(reader: Reader, server: SLEDServer, kept: Kept) -> dict[str, bytes] | None:
    if server.spec.auth.mode == "None":
        return None
    if server.spec.auth.secret_name is not None:
        return await _given(reader, server, server.spec.auth.secret_name, ("tokens", "token"), kept)
    name = tokens_secret_name(server)
    stored = next((o for o in kept.observed if o["metadata"]["name"] == name), None)
    data = decoded(stored)
    if not tokens.usable(data):
        data = tokens.make()
    kept.manifests.append(secret(server, name, data))
    return data


async def _given(
    reader: Reader, server: SLEDServer, name: str, keys: tuple[str, ...], kept: Kept
) -> dict[str, bytes] | None:
    """A Secret that somebody else makes."""
    document = await reader.get(kinds.SECRET, server.metadata.namespace, name)
    if document is None:
        kept.problems.append(Problem(Reason.SECRET_MISSING, f"there is no Secret {name}"))
        return None
    data = decoded(document)
    lacking = [key for key in keys if key not in data]
    if lacking:
        text = f"Secret {name} lacks {', '.join(lacking)}"
        kept.problems.append(Problem(Reason.SECRET_MISSING, text))
    return data


def decoded(document: Object | None) -> dict[str, bytes]:
    """The data of a Secret; what is not base64 counts as absent."""
    result = {}
    for key, value in ((document or {}).get("data") or {}).items():
        try:
            result[key] = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            continue
    return result
