"""ControllerRevision of an EdgeDrafter: the snapshot from which a revision can be rebuilt. Pure."""

from __future__ import annotations

from sled_operator.names import REVISION
from sled_operator.resources.base import Manifest, drafter_owner, manifest
from sled_operator.revision import Snapshot
from sled_operator.spec import EdgeDrafter


def controller_revision(drafter: EdgeDrafter, snapshot: Snapshot) -> Manifest:
    """The stored snapshot; its data is immutable, as Kubernetes demands of this kind."""
    return manifest(
        drafter_owner(drafter),
        "apps/v1",
        "ControllerRevision",
        f"{drafter.metadata.name}-{snapshot.name}",
        {"revision": 1, "data": snapshot.data()},
        labels={REVISION: snapshot.name},
    )
