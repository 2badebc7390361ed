"""What a revision of an EdgeDrafter is: everything that its pods are made from, and nothing else.
Pure.

Settings that only choose nodes (selector, objective, memory share) or pace a rollout are no part of
it, so changing them moves no pod. A snapshot is kept as a ControllerRevision, so that the objects
of an older revision can be rebuilt after the resource has moved on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from sled_operator.names import digest
from sled_operator.resources.secret import tls_secret_name, tokens_secret_name
from sled_operator.resources.service import server_address, server_host
from sled_operator.spec import EdgeDrafter, EdgeDrafterSpec, SLEDServer

_PODS = (
    "drafts",
    "drafting",
    "offline",
    "sequences",
    "api",
    "cache",
    "tolerations",
    "image",
    "image_pull_policy",
    "image_pull_secrets",
    "resources",
    "log_level",
    "pod_template",
)


class UnreadableRevision(ValueError):
    """A stored snapshot is not one; the message says why."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a drafter's verifier is and how to trust it."""

    address: str
    ca_secret_name: str | None = None
    server_name: str | None = None
    token_secret_name: str | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One revision: the spec of the pods, the verifier, the images by runtime variant."""

    spec: EdgeDrafterSpec
    endpoint: Endpoint
    images: Mapping[str, str]

    def data(self) -> dict[str, Any]:
        """As JSON, for the ControllerRevision."""
        spec = self.spec.model_dump(
            mode="json", by_alias=True, exclude_none=True, include=set(_PODS)
        )
        return {"spec": spec, "endpoint": asdict(self.endpoint), "images": dict(self.images)}

    @property
    def name(self) -> str:
        """The revision: equal snapshots have equal names."""
        return digest(self.data())


def endpoint_of(drafter: EdgeDrafter, server: SLEDServer | None) -> Endpoint | None:
    """The verifier of a drafter; None when it names a SLEDServer that does not exist."""
    reference = drafter.spec.server
    if reference.address is not None:
        return Endpoint(
            reference.address,
            reference.ca_secret_name,
            reference.server_name,
            reference.token_secret_name,
        )
    if server is None:
        return None
    plain = server.spec.tls.mode == "Disabled"
    tokens = server.spec.auth.mode == "DeviceTokens"
    return Endpoint(
        server_address(server),
        None if plain else tls_secret_name(server),
        None if plain else server_host(server),
        tokens_secret_name(server) if tokens else None,
    )


def restore(data: Mapping[str, Any], current: EdgeDrafterSpec) -> Snapshot:
    """A snapshot from its ControllerRevision; what is no part of it is taken from `current`.

    Raises:
        UnreadableRevision: it was written by hand, or by a version whose fields are gone.
    """
    try:
        rest = current.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=set(_PODS))
        spec = EdgeDrafterSpec.model_validate_json(json.dumps(rest | dict(data["spec"])))
        return Snapshot(spec, Endpoint(**data["endpoint"]), dict(data["images"]))
    except (ValidationError, KeyError, TypeError) as error:
        raise UnreadableRevision(f"the stored revision cannot be read: {error}") from error
