"""The kinds that the operator touches. Must list each exactly once: RBAC is derived from it."""

from __future__ import annotations

from sled_operator.cluster.base import Resource
from sled_operator.spec import API_VERSION

SLED_SERVER = Resource(API_VERSION, "sledservers", "SLEDServer")
EDGE_DRAFTER = Resource(API_VERSION, "edgedrafters", "EdgeDrafter")
NODE = Resource("v1", "nodes", "Node", namespaced=False)
POD = Resource("v1", "pods", "Pod")
EVENT = Resource("v1", "events", "Event")
SECRET = Resource("v1", "secrets", "Secret")
LEASE = Resource("coordination.k8s.io/v1", "leases", "Lease")
CONFIG_MAP = Resource("v1", "configmaps", "ConfigMap")
SERVICE = Resource("v1", "services", "Service")
SERVICE_ACCOUNT = Resource("v1", "serviceaccounts", "ServiceAccount")
STATEFUL_SET = Resource("apps/v1", "statefulsets", "StatefulSet")
DAEMON_SET = Resource("apps/v1", "daemonsets", "DaemonSet")
CONTROLLER_REVISION = Resource("apps/v1", "controllerrevisions", "ControllerRevision")
NETWORK_POLICY = Resource("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy")
DISRUPTION_BUDGET = Resource("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget")
AUTOSCALER = Resource("autoscaling/v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
ENDPOINT_SLICE = Resource("discovery.k8s.io/v1", "endpointslices", "EndpointSlice")
SERVICE_MONITOR = Resource("monitoring.coreos.com/v1", "servicemonitors", "ServiceMonitor")
CERTIFICATE = Resource("cert-manager.io/v1", "certificates", "Certificate")
GRPC_ROUTE = Resource("gateway.networking.k8s.io/v1", "grpcroutes", "GRPCRoute")
BACKEND_TLS = Resource("gateway.networking.k8s.io/v1", "backendtlspolicies", "BackendTLSPolicy")
CLAIM_TEMPLATE = Resource("resource.k8s.io/v1", "resourceclaimtemplates", "ResourceClaimTemplate")

OWNED = (
    CONFIG_MAP,
    SERVICE,
    SERVICE_ACCOUNT,
    STATEFUL_SET,
    DAEMON_SET,
    CONTROLLER_REVISION,
    NETWORK_POLICY,
    DISRUPTION_BUDGET,
    AUTOSCALER,
)
"""Kinds whose objects are watched, because every cluster has them."""
OPTIONAL = (SERVICE_MONITOR, CERTIFICATE, GRPC_ROUTE, BACKEND_TLS, CLAIM_TEMPLATE)
"""Kinds that a cluster may lack; watched when it has them."""

BY_KIND = {(r.api_version, r.kind): r for r in (*OWNED, *OPTIONAL, SECRET, ENDPOINT_SLICE)}
