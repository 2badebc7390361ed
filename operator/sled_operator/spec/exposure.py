"""Exposure section of a SLEDServer. Holds the shape and its rules; Services and routes are built in
`sled_operator.resources`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from sled_operator.spec.base import DnsName, LabelKey, ObjectName, Rule, Spec


class GatewayRef(Spec):
    """The Gateway that a GRPCRoute attaches to."""

    name: ObjectName
    """Its name."""
    namespace: DnsName | None = None
    """Its namespace; omitted means the SLEDServer's."""
    section_name: ObjectName | None = None
    """The listener."""
    hostnames: Annotated[
        tuple[Annotated[str, StringConstraints(min_length=1, max_length=253)], ...],
        Field(max_length=16),
    ] = ()
    """Host names of the route."""


class Exposure(Spec):
    """How devices reach the verifier."""

    rules = (
        Rule(
            "self.type in ['NodePort', 'LoadBalancer'] || !has(self.nodePort)",
            "nodePort belongs to exposure type NodePort or LoadBalancer",
            lambda self: self.type in ("NodePort", "LoadBalancer") or self.node_port is None,
        ),
        Rule(
            "(self.type == 'Gateway') == has(self.gateway)",
            "gateway belongs to exposure type Gateway, which needs it, and to no other",
            lambda self: (self.type == "Gateway") == (self.gateway is not None),
        ),
        Rule(
            "self.type == 'LoadBalancer' || !has(self.loadBalancerClass)",
            "loadBalancerClass belongs to exposure type LoadBalancer",
            lambda self: self.type == "LoadBalancer" or self.load_balancer_class is None,
        ),
    )

    type: Literal["ClusterIP", "NodePort", "LoadBalancer", "Gateway"] = "ClusterIP"
    """ClusterIP: devices are nodes of this cluster. NodePort, LoadBalancer: they are not. Gateway:
    a GRPCRoute on a Gateway of yours, which speaks TLS to the verifier by a BackendTLSPolicy where
    the cluster has that kind."""
    port: Annotated[int, Field(ge=1, le=65_535)] = 7000
    """Port of the Service."""
    node_port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    """Fixed port on the nodes; omitted lets Kubernetes choose."""
    load_balancer_class: LabelKey | None = None
    """Which load balancer implementation."""
    annotations: Annotated[
        dict[LabelKey, Annotated[str, StringConstraints(max_length=4096)]], Field(max_length=32)
    ] = Field(default_factory=dict)
    """Annotations of the Service, for load balancers that need them."""
    gateway: GatewayRef | None = None
    """The Gateway, for type Gateway."""
