"""PodDisruptionBudget: a node drain takes one verifier at a time. Pure."""

from __future__ import annotations

from sled_operator.resources.base import Manifest, manifest, server_owner
from sled_operator.spec import SLEDServer


def verifier_disruptionbudget(server: SLEDServer) -> Manifest:
    """At most one replica away; never blocks a drain for ever, as minAvailable would with one."""
    owner = server_owner(server)
    spec = {
        "maxUnavailable": 1,
        "selector": {"matchLabels": owner.selector},
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
    return manifest(owner, "policy/v1", "PodDisruptionBudget", server.metadata.name, {"spec": spec})
