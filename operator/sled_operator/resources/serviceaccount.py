"""ServiceAccounts: an identity without any right, so that pods never run as the namespace's
default. Pure."""

from __future__ import annotations

from sled_operator.resources.base import Manifest, Owner, manifest


def service_account(owner: Owner) -> Manifest:
    """The ServiceAccount of a resource's pods; no token is mounted."""
    body = {"automountServiceAccountToken": False}
    return manifest(owner, "v1", "ServiceAccount", owner.metadata.name, body)
