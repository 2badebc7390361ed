"""Parts that both resources have: resources, tolerations. Must not hold anything that only one kind
uses."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from sled_operator.spec.base import LabelKey, LabelValue, Quantity, Rule, Spec

PodTemplate = Annotated[
    dict[str, Any],
    Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True, "x-sled-opaque": True}),
]
"""A partial PodTemplateSpec (`metadata`, `spec`), opaque to the schema: the API server judges it
when the pods are made."""
ResourceAmount = Annotated[int, Field(ge=0)] | Quantity
NodeLabels = Annotated[dict[LabelKey, LabelValue], Field(max_length=32)]


class Resources(Spec):
    """Compute resources of the container, as in a pod."""

    requests: Annotated[dict[LabelKey, ResourceAmount], Field(max_length=32)] = Field(
        default_factory=dict
    )
    """Least resources, by name: `cpu`, `memory`, …"""
    limits: Annotated[dict[LabelKey, ResourceAmount], Field(max_length=32)] = Field(
        default_factory=dict
    )
    """Most resources, by name."""


class Toleration(Spec):
    """A node taint that the pods tolerate."""

    rules = (
        Rule(
            "self.operator != 'Exists' || !has(self.value)",
            "a toleration with operator Exists has no value",
            lambda self: self.operator != "Exists" or self.value is None,
        ),
    )

    key: LabelKey | None = None
    """Taint key; omitted with operator Exists tolerates everything."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """How the value compares."""
    value: LabelValue | None = None
    """Taint value, for operator Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Taint effect; omitted means all of them."""
    toleration_seconds: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    """How long a NoExecute taint is tolerated; omitted means for ever."""


Tolerations = Annotated[tuple[Toleration, ...], Field(max_length=16)]

LogLevel = Literal["debug", "info", "warning", "error"]
HostPath = Annotated[
    str, StringConstraints(pattern=r"^(/[A-Za-z0-9_][A-Za-z0-9._-]*)+$", max_length=1024)
]
"""A folder of the node: neither its whole disk nor a path that climbs out of itself."""
