"""NetworkPolicies: the verifier is reachable on its two ports and nowhere else. Pure."""

from __future__ import annotations

from sled_operator.resources.base import Manifest, manifest, server_owner
from sled_operator.spec import SLEDServer


def verifier_networkpolicy(server: SLEDServer) -> Manifest:
    """Ingress to the gRPC and metrics ports only.

    Devices may sit outside the cluster, so the peers are not narrowed: tokens and TLS do that.
    """
    owner = server_owner(server)
    ports = [{"port": name, "protocol": "TCP"} for name in ("grpc", "metrics")]
    spec = {
        "podSelector": {"matchLabels": owner.selector},
        "policyTypes": ["Ingress"],
        "ingress": [{"ports": ports}],
    }
    return manifest(
        owner, "networking.k8s.io/v1", "NetworkPolicy", server.metadata.name, {"spec": spec}
    )
