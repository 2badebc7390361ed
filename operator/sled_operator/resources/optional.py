"""Objects whose kinds a cluster may lack: monitoring, certificates, routes, device claims. Pure."""

from __future__ import annotations

import ipaddress
from typing import Any

from sled_operator.resources.base import Manifest, manifest, server_owner
from sled_operator.resources.secret import tls_secret_name
from sled_operator.resources.service import server_host
from sled_operator.resources.verifier_config import headless_name
from sled_operator.spec import SLEDServer

Json = dict[str, Any]
SERVICE_MONITOR = ("monitoring.coreos.com/v1", "ServiceMonitor")
CERTIFICATE = ("cert-manager.io/v1", "Certificate")
GRPC_ROUTE = ("gateway.networking.k8s.io/v1", "GRPCRoute")
BACKEND_TLS = ("gateway.networking.k8s.io/v1", "BackendTLSPolicy")
CLAIM_TEMPLATE = ("resource.k8s.io/v1", "ResourceClaimTemplate")


def service_monitor(server: SLEDServer) -> Manifest:
    """Prometheus scrapes each replica."""
    owner = server_owner(server)
    spec = {
        "selector": {"matchLabels": owner.selector | {"sled.dev/scrape": "true"}},
        "endpoints": [{"port": "metrics", "path": "/metrics"}],
    }
    return manifest(owner, *SERVICE_MONITOR, server.metadata.name, {"spec": spec})


def dns_names(server: SLEDServer) -> list[str]:
    """Names and addresses that the serving certificate must carry."""
    host = server_host(server)
    namespace = server.metadata.namespace
    replicas = f"*.{headless_name(server)}.{namespace}.svc"
    own = [server.metadata.name, host.removesuffix(".svc"), host, f"{host}.cluster.local", replicas]
    return [*own, *server.spec.tls.extra_names]


def certificate(server: SLEDServer) -> Manifest:
    """The request to cert-manager."""
    issuer = server.spec.tls.issuer_ref
    if issuer is None:
        raise ValueError("tls mode CertManager without an issuerRef")
    names = dns_names(server)
    hours = server.spec.tls.certificate_days * 24
    spec: Json = {
        "secretName": tls_secret_name(server),
        "dnsNames": [name for name in names if not _is_address(name)],
        "duration": f"{hours}h0m0s",
        "renewBefore": f"{max(hours // 3, 1)}h0m0s",
        "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
        "issuerRef": {"name": issuer.name, "kind": issuer.kind, "group": "cert-manager.io"},
    }
    if addresses := [name for name in names if _is_address(name)]:
        spec["ipAddresses"] = addresses
    return manifest(server_owner(server), *CERTIFICATE, server.metadata.name, {"spec": spec})


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def grpc_route(server: SLEDServer) -> Manifest:
    """The route from a Gateway to the verifier."""
    gateway = server.spec.exposure.gateway
    if gateway is None:
        raise ValueError("exposure type Gateway without a gateway")
    parent: Json = {"name": gateway.name}
    if gateway.namespace is not None:
        parent["namespace"] = gateway.namespace
    if gateway.section_name is not None:
        parent["sectionName"] = gateway.section_name
    backend = {"name": server.metadata.name, "port": server.spec.exposure.port}
    spec: Json = {"parentRefs": [parent], "rules": [{"backendRefs": [backend]}]}
    if gateway.hostnames:
        spec["hostnames"] = list(gateway.hostnames)
    return manifest(server_owner(server), *GRPC_ROUTE, server.metadata.name, {"spec": spec})


def authority_config(server: SLEDServer, authority: bytes) -> Manifest:
    """The certificate authority in the form that a BackendTLSPolicy reads."""
    name = f"{server.metadata.name}-ca"
    data = {"ca.crt": authority.decode()}
    return manifest(server_owner(server), "v1", "ConfigMap", name, {"data": data})


def backend_tls(server: SLEDServer) -> Manifest:
    """How a Gateway, which has decrypted what a device sent, encrypts it again for the verifier."""
    name = server.metadata.name
    target = {"group": "", "kind": "Service", "name": name, "sectionName": "grpc"}
    authority = {"group": "", "kind": "ConfigMap", "name": f"{name}-ca"}
    validation = {"caCertificateRefs": [authority], "hostname": server_host(server)}
    spec = {"targetRefs": [target], "validation": validation}
    return manifest(server_owner(server), *BACKEND_TLS, name, {"spec": spec})


def gpu_claim_template(server: SLEDServer) -> Manifest:
    """The GPUs of one replica, as dynamic resource allocation wants them said."""
    gpu = server.spec.gpu
    exactly: Json = {
        "deviceClassName": gpu.device_class_name,
        "allocationMode": "ExactCount",
        "count": gpu.count,
    }
    if gpu.min_memory_mib:
        least = f"quantity('{gpu.min_memory_mib}Mi')"
        domain = gpu.device_class_name
        cel = f"device.capacity['{domain}'].memory.compareTo({least}) >= 0"
        exactly["selectors"] = [{"cel": {"expression": cel}}]
    spec = {"spec": {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}}
    return manifest(
        server_owner(server), *CLAIM_TEMPLATE, f"{server.metadata.name}-gpu", {"spec": spec}
    )
