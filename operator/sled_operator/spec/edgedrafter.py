"""EdgeDrafter: which nodes draft, with what, for which server. Holds the shape and its rules, no
behaviour."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from sled_operator.spec.base import (
    DnsName,
    Image,
    LabelKey,
    LabelValue,
    Metadata,
    ObjectName,
    Quantity,
    Rule,
    Spec,
    unique,
)
from sled_operator.spec.drafts import Draft
from sled_operator.spec.rollout import Rollout
from sled_operator.spec.shared import HostPath, LogLevel, PodTemplate, Resources, Tolerations


class ServerRef(Spec):
    """The verifier that judges the drafts."""

    rules = (
        Rule(
            "has(self.name) != has(self.address)",
            "server has exactly one of name and address",
            lambda self: (self.name is None) != (self.address is None),
        ),
        Rule(
            "has(self.address) || (!has(self.tokenSecretName) && !has(self.caSecretName) &&"
            " !has(self.serverName))",
            "tokenSecretName, caSecretName and serverName belong to an address; a server by"
            " name brings its own",
            lambda self: (
                self.address is not None
                or (
                    self.token_secret_name is None
                    and self.ca_secret_name is None
                    and self.server_name is None
                )
            ),
        ),
    )

    name: DnsName | None = None
    """A SLEDServer of the same namespace."""
    address: (
        Annotated[
            str,
            StringConstraints(
                pattern=r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$", max_length=300
            ),
        ]
        | None
    ) = None
    """`host:port` of a verifier elsewhere."""
    token_secret_name: ObjectName | None = None
    """Secret whose key `token` holds the bearer token, for an address."""
    ca_secret_name: ObjectName | None = None
    """Secret whose key `ca.crt` signs the verifier's certificate, for an address; omitted means
    plain text."""
    server_name: Annotated[str, StringConstraints(min_length=1, max_length=253)] | None = None
    """Name expected in the verifier's certificate, when it is not the address."""


class Drafting(Spec):
    """How drafts are made and judged."""

    max_tokens: Annotated[int, Field(ge=0, le=16)] = 8
    """Longest draft; 0 = do not draft."""
    mode: Literal["Rejection", "Match", "PointMass"] = "Rejection"
    """How draft tokens are judged when sampling; the text is the target's own with each."""
    min_confidence_permille: Annotated[int, Field(ge=0, le=1000)] = 0
    """A draft ends at a token that the drafter finds less likely than this."""
    max_probs: Annotated[int, Field(ge=1, le=64)] = 32
    """Entries of a transmitted draft distribution."""


class Offline(Spec):
    """What a device does while no verifier answers."""

    policy: Literal["Refuse", "DraftOnly"] = "Refuse"
    """Refuse answers 503. DraftOnly serves the draft model's text, marked as unverified."""
    patience_seconds: Annotated[int, Field(ge=0, le=3600)] = 30
    """How long a text that has begun waits for a verifier before it is broken off, where the policy
    is Refuse."""


class Api(Spec):
    """The local HTTP API."""

    host_port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    """Port on the node. Omitted keeps to a Service with internalTrafficPolicy Local, which pods and
    processes of the node reach, and which restricted Pod Security allows."""
    host_ip: Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F:.]+$", max_length=45)] = (
        "127.0.0.1"
    )
    """Address that hostPort binds to."""


class DraftCache(Spec):
    """Where a node keeps its draft model."""

    rules = (
        Rule(
            "(self.type == 'HostPath') == has(self.path)",
            "path belongs to cache type HostPath, which needs it, and to no other",
            lambda self: (self.type == "HostPath") == (self.path is not None),
        ),
    )

    type: Literal["EmptyDir", "HostPath"] = "EmptyDir"
    """EmptyDir is lost with the pod. HostPath survives it: a node without a network starts again,
    and a node that drafts goes on until its next model has arrived."""
    size: Quantity = "4Gi"
    """Limit of the EmptyDir."""
    path: HostPath | None = None
    """Folder on the node, for HostPath."""


class EdgeDrafterSpec(Spec):
    """What is wanted of a fleet of drafters."""

    rules = (
        Rule(
            "has(self.server.name) || self.rollout.waves.all(w,"
            " w.gates.minAcceptancePermille == 0 && w.gates.minSpeedPermille == 0)",
            "gates on acceptance and speed need a server by name, whose verifiers report both",
            lambda self: (
                self.server.name is not None
                or not any(
                    wave.gates.min_acceptance_permille or wave.gates.min_speed_permille
                    for wave in self.rollout.waves
                )
            ),
        ),
    )

    server: ServerRef
    """The verifier."""
    node_selector: Annotated[dict[LabelKey, LabelValue], Field(min_length=1, max_length=32)]
    """Labels of the nodes that draft; at least one, so that drafters never land on servers
    unasked."""
    tolerations: Tolerations = ()
    """Taints that the pods tolerate."""
    drafts: Annotated[
        tuple[Draft, ...],
        Field(
            min_length=1,
            max_length=16,
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
            },
        ),
        unique("name"),
    ]
    """Catalogue of draft models; each node is given the one that serves the objective best."""
    objective: Literal["Throughput", "Latency", "Energy"] = "Throughput"
    """Throughput: most output tokens per second. Latency: shortest round. Energy: fewest joules per
    output token."""
    max_memory_percent: Annotated[int, Field(ge=1, le=100)] = 60
    """Most of a node's allocatable memory that a drafter may take."""
    round_trip_ms: Annotated[int, Field(ge=0, le=60_000)] = 60
    """Expected time of a round without drafts, for the prediction: network both ways, queue and
    verification."""
    drafting: Drafting = Field(default_factory=Drafting)
    """How drafts are made and judged."""
    offline: Offline = Field(default_factory=Offline)
    """What a device does while no verifier answers."""
    sequences: Annotated[int, Field(ge=1, le=64)] = 4
    """Generations at once on one device."""
    api: Api = Field(default_factory=Api)
    """The local HTTP API."""
    cache: DraftCache = Field(default_factory=DraftCache)
    """Where a node keeps its draft model."""
    rollout: Rollout = Field(default_factory=Rollout)
    """How a change reaches the nodes."""
    image: Image | None = None
    """Drafter image for every variant; omitted takes the operator's default of the variant."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When the image is pulled."""
    image_pull_secrets: Annotated[tuple[ObjectName, ...], Field(max_length=16)] = ()
    """Names of Secrets of type kubernetes.io/dockerconfigjson."""
    resources: Resources = Field(default_factory=Resources)
    """Compute resources of the drafter container; memory defaults to the draft's profile."""
    log_level: LogLevel = "info"
    """Least severity that is logged."""
    pod_template: PodTemplate = Field(default_factory=dict)
    """Partial PodTemplateSpec, merged strategically over what the operator builds."""


class EdgeDrafter(Spec):
    """Nodes that draft, the draft models they may be given, and the verifier that judges them."""

    metadata: Metadata
    spec: EdgeDrafterSpec
