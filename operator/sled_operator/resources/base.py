"""What every manifest has: identity, labels, owner. Must not know what any kind means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sled_operator.names import APPLIED, DRAFTER, SERVER, common_labels, digest
from sled_operator.spec import API_VERSION, EdgeDrafter, Metadata, SLEDServer

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose objects are built."""

    kind: str
    component: str
    kind_label: str
    metadata: Metadata

    @property
    def labels(self) -> dict[str, str]:
        """The full label set; grows with time, so never a selector."""
        return common_labels(self.metadata.name, self.component, self.kind_label)

    @property
    def selector(self) -> dict[str, str]:
        """The fixed selector of this resource's pods; may never change, workloads forbid it."""
        return {self.kind_label: self.metadata.name}


def server_owner(server: SLEDServer) -> Owner:
    """The owner of a verifier's objects."""
    return Owner("SLEDServer", "verifier", SERVER, server.metadata)


def drafter_owner(drafter: EdgeDrafter) -> Owner:
    """The owner of a drafter's objects."""
    return Owner("EdgeDrafter", "drafter", DRAFTER, drafter.metadata)


def manifest(
    owner: Owner,
    api_version: str,
    kind: str,
    name: str,
    body: Mapping[str, Any],
    *,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Manifest:
    """A whole object with identity, labels, owner reference and the hash of all that."""
    built: Manifest = {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": owner.metadata.namespace,
            "labels": owner.labels | dict(labels or {}),
            "annotations": dict(annotations or {}),
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": owner.kind,
                    "name": owner.metadata.name,
                    "uid": owner.metadata.uid,
                    "controller": True,
                }
            ],
        },
        **body,
    }
    built["metadata"]["annotations"][APPLIED] = digest(built, 16)
    return built
