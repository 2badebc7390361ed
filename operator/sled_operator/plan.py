"""What must be written so that the cluster holds what is wanted: desired against observed. Pure.

An object is written when its recipe changed (the hash in its annotation), or when a field that we
set no longer holds what we set (drift). Fields that we do not set are none of our business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sled_operator.names import APPLIED
from sled_operator.resources.base import Manifest

Identity = tuple[str, str, str]
"""apiVersion, kind and name; all objects of a plan share a namespace."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Writes in order, each with its reason; and deletions."""

    apply: tuple[tuple[Manifest, str], ...]
    delete: tuple[Manifest, ...]

    @property
    def empty(self) -> bool:
        """True when there is nothing to write."""
        return not self.apply and not self.delete


def identity(document: Mapping[str, Any]) -> Identity:
    """What tells two objects of a namespace apart."""
    return document["apiVersion"], document["kind"], document["metadata"]["name"]


def plan(desired: Sequence[Manifest], observed: Iterable[Mapping[str, Any]]) -> Plan:
    """Compare. `observed` must hold only objects that belong to the same resource."""
    there = {identity(document): document for document in observed}
    writes = []
    for manifest in desired:
        reason = why_apply(manifest, there.get(identity(manifest)))
        if reason is not None:
            writes.append((manifest, reason))
    wanted = {identity(manifest) for manifest in desired}
    surplus = tuple(
        dict(document)
        for key, document in sorted(there.items())
        if key not in wanted and "deletionTimestamp" not in document["metadata"]
    )
    return Plan(tuple(writes), surplus)


def why_apply(manifest: Manifest, observed: Mapping[str, Any] | None) -> str | None:
    """Why an object must be written, in a few words; None when it need not be."""
    if observed is None:
        return "missing"
    annotations = observed["metadata"].get("annotations", {})
    if annotations.get(APPLIED) != manifest["metadata"]["annotations"][APPLIED]:
        return "changed"
    path = drifted(manifest, observed)
    return None if path is None else f"drifted at {path}"


def drifted(wanted: Any, observed: Any, path: str = "") -> str | None:
    """Path of the first field that we set and that holds something else; None when there is none.

    A mapping may hold more than we set. A list must have the same length, element by element: a
    list of ours is ours as a whole.
    """
    if isinstance(wanted, Mapping):
        if not isinstance(observed, Mapping):
            return None if not wanted and observed is None else path
        for name, value in wanted.items():
            below = drifted(value, observed.get(name), f"{path}.{name}" if path else name)
            if below is not None:
                return below
        return None
    if isinstance(wanted, list):
        if not isinstance(observed, list) or len(wanted) != len(observed):
            return None if not wanted and observed is None else path
        for index, (value, other) in enumerate(zip(wanted, observed, strict=True)):
            below = drifted(value, other, f"{path}[{index}]")
            if below is not None:
                return below
        return None
    return None if wanted == observed or (not wanted and observed is None) else path
