"""Services: the stable address of a verifier, its headless twin, and a drafter's local API.
Pure."""

from __future__ import annotations

from typing import Any

from sled_operator.resources.base import Manifest, drafter_owner, manifest, server_owner
from sled_operator.resources.verifier_config import GRPC_PORT, METRICS_PORT, headless_name
from sled_operator.spec import EdgeDrafter, SLEDServer

API_PORT = 8080


def server_host(server: SLEDServer) -> str:
    """DNS name of the verifier inside the cluster."""
    return f"{server.metadata.name}.{server.metadata.namespace}.svc"


def server_address(server: SLEDServer) -> str:
    """`host:port` that drafters of this cluster dial."""
    return f"{server_host(server)}:{server.spec.exposure.port}"


def server_service(server: SLEDServer) -> Manifest:
    """The Service that devices dial."""
    exposure = server.spec.exposure
    port: dict[str, Any] = {
        "name": "grpc",
        "port": exposure.port,
        "targetPort": "grpc",
        "protocol": "TCP",
        "appProtocol": "kubernetes.io/h2c" if server.spec.tls.mode == "Disabled" else "grpc",
    }
    if exposure.node_port is not None:
        port["nodePort"] = exposure.node_port
    body: dict[str, Any] = {
        "type": "ClusterIP" if exposure.type == "Gateway" else exposure.type,
        "selector": server_owner(server).selector,
        "ports": [port],
    }
    if exposure.load_balancer_class is not None:
        body["loadBalancerClass"] = exposure.load_balancer_class
    return manifest(
        server_owner(server),
        "v1",
        "Service",
        server.metadata.name,
        {"spec": body},
        annotations=exposure.annotations,
    )


def headless_service(server: SLEDServer) -> Manifest:
    """The headless Service: one name per replica, ready or not, for stats and for metrics."""
    owner = server_owner(server)
    ports = [
        {"name": "grpc", "port": GRPC_PORT, "targetPort": "grpc", "protocol": "TCP"},
        {"name": "metrics", "port": METRICS_PORT, "targetPort": "metrics", "protocol": "TCP"},
    ]
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": owner.selector,
        "ports": ports,
    }
    return manifest(
        owner,
        "v1",
        "Service",
        headless_name(server),
        {"spec": spec},
        labels={"sled.dev/scrape": "true"},
    )


def drafter_service(drafter: EdgeDrafter) -> Manifest:
    """The drafter of the caller's own node, whichever node that is."""
    owner = drafter_owner(drafter)
    spec = {
        "type": "ClusterIP",
        "internalTrafficPolicy": "Local",
        "selector": owner.selector,
        "ports": [{"name": "http", "port": API_PORT, "targetPort": "http", "protocol": "TCP"}],
    }
    return manifest(owner, "v1", "Service", drafter.metadata.name, {"spec": spec})
