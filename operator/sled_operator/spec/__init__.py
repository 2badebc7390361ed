"""The two resources of `sled.dev/v1alpha1` as frozen values, and the one parser of their documents.

Everything that reads a SLEDServer or an EdgeDrafter goes through `parse`: the operator, and `sled
up`, which runs the same documents as local processes. Nothing here may import kopf or a Kubernetes
client.
"""

from __future__ import annotations

from sled_operator.spec.base import API_VERSION, GROUP, VERSION, InvalidResource, Metadata
from sled_operator.spec.edgedrafter import EdgeDrafter, EdgeDrafterSpec
from sled_operator.spec.parse import parse
from sled_operator.spec.sledserver import SLEDServer, SLEDServerSpec

__all__ = [
    "API_VERSION",
    "GROUP",
    "VERSION",
    "EdgeDrafter",
    "EdgeDrafterSpec",
    "InvalidResource",
    "Metadata",
    "SLEDServer",
    "SLEDServerSpec",
    "parse",
]
