"""Autoscaling section of a SLEDServer. Holds the shape and its rules; decisions are made in
`sled_operator.autoscaler`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sled_operator.spec.base import Rule, Spec


class ScaleBehavior(Spec):
    """How fast one direction may go, as HorizontalPodAutoscaler's behavior has it."""

    stabilization_seconds: Annotated[int, Field(ge=0, le=3600)] = 0
    """The most careful recommendation of this window counts."""
    max_replicas_per_period: Annotated[int, Field(ge=0, le=1000)] = 0
    """Most replicas to add or remove in a period; 0 = no such limit."""
    max_percent_per_period: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Most percent to add or remove in a period; 0 = no such limit. The larger of both limits
    counts."""
    period_seconds: Annotated[int, Field(ge=1, le=1800)] = 60
    """Length of a period."""


class ScaleUp(ScaleBehavior):
    """Defaults for growing: at once, doubling or four more a minute."""

    max_replicas_per_period: Annotated[int, Field(ge=0, le=1000)] = 4
    """Most replicas to add in a period; 0 = no such limit."""
    max_percent_per_period: Annotated[int, Field(ge=0, le=10_000)] = 100
    """Most percent to add in a period; 0 = no such limit. The larger of both limits counts."""


class ScaleDown(ScaleBehavior):
    """Defaults for shrinking: after five quiet minutes, one replica a minute."""

    stabilization_seconds: Annotated[int, Field(ge=0, le=3600)] = 300
    """The highest recommendation of this window counts."""
    max_replicas_per_period: Annotated[int, Field(ge=0, le=1000)] = 1
    """Most replicas to remove in a period; 0 = no such limit."""


class Autoscaling(Spec):
    """Replicas that follow the queue depth."""

    rules = (
        Rule(
            "self.minReplicas <= self.maxReplicas",
            "minReplicas must not exceed maxReplicas",
            lambda self: self.min_replicas <= self.max_replicas,
        ),
        Rule(
            "self.maxReplicas >= 1",
            "maxReplicas must be at least 1",
            lambda self: self.max_replicas >= 1,
        ),
        Rule(
            "!has(self.fallbackReplicas) || self.fallbackReplicas <= self.maxReplicas",
            "fallbackReplicas must not exceed maxReplicas",
            lambda self: (
                self.fallback_replicas is None or self.fallback_replicas <= self.max_replicas
            ),
        ),
        Rule(
            "self.mode != 'HPA' || self.minReplicas >= 1",
            "mode HPA cannot scale to zero: set minReplicas to at least 1, or use mode Builtin",
            lambda self: self.mode != "HPA" or self.min_replicas >= 1,
        ),
    )

    mode: Literal["None", "Builtin", "HPA", "KEDA"] = "None"
    """None keeps spec.replicas. Builtin reads the verifiers' own stats. HPA makes a
    HorizontalPodAutoscaler on the metric `sled_queue_depth`. KEDA leaves replicas to a ScaledObject
    of yours."""
    min_replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Fewest replicas; 0 lets an idle server stop, until a device asks for it."""
    max_replicas: Annotated[int, Field(ge=0, le=1000)] = 4
    """Most replicas."""
    target_queue_depth: Annotated[int, Field(ge=1, le=100_000)] = 8
    """Waiting drafts per replica to aim at."""
    scale_up: ScaleUp = Field(default_factory=ScaleUp)
    """How fast to grow."""
    scale_down: ScaleDown = Field(default_factory=ScaleDown)
    """How fast to shrink."""
    fallback_replicas: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Replicas when no verifier answers; omitted keeps what there is."""
    scale_to_zero_after_seconds: Annotated[int, Field(ge=10, le=604_800)] = 600
    """Quiet time after which a server with minReplicas 0 stops."""
