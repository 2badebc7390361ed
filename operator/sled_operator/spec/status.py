"""What the operator reports about a resource. Only the operator writes it; nothing that a user owns
may be in here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from sled_operator.spec.base import Spec

Text = Annotated[str, StringConstraints(max_length=1024)]
Name = Annotated[str, StringConstraints(max_length=317)]
Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Count = Annotated[int, Field(ge=0)]


class Condition(Spec):
    """One observation, in the form that `kubectl wait` and kstatus read."""

    type: Name
    """Ready, Available, Progressing or Degraded."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Name
    """Why, in one CamelCase word."""
    message: Annotated[str, StringConstraints(max_length=32_768)]
    """Why, in a sentence."""
    last_transition_time: Timestamp
    """When status last changed."""
    observed_generation: Count = 0
    """The generation that was looked at."""


Conditions = Annotated[
    tuple[Condition, ...],
    Field(
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]


class ScalingStatus(Spec):
    """What the autoscaler saw and decided."""

    desired_replicas: Count
    """Replicas it asks for."""
    reason: Name
    """Why, in one CamelCase word."""
    message: Text
    """Why, in a sentence."""
    queue_depth: Count | None = None
    """Waiting drafts when it decided, over all replicas that answered; the present number is the
    metric `sled_queue_depth`."""
    last_scale_time: Timestamp | None = None
    """When desiredReplicas last changed."""


class SLEDServerStatus(Spec):
    """What is observed of a SLEDServer."""

    observed_generation: Count | None = None
    """The generation that the operator has acted on."""
    conditions: Conditions | None = None
    """Ready, Available, Progressing, Degraded."""
    replicas: Count | None = None
    """Pods that exist."""
    ready_replicas: Count | None = None
    """Pods that serve."""
    selector: Text | None = None
    """Label selector of the pods, for the scale subresource."""
    address: Text | None = None
    """`host:port` for devices in this cluster."""
    autoscaling: ScalingStatus | None = None
    """What the autoscaler decided."""


class NodeCounts(Spec):
    """Nodes by state."""

    selected: Count
    """Nodes that nodeSelector matches."""
    assigned: Count
    """Nodes that were given a draft model."""
    ready: Count
    """Nodes whose drafter is ready."""
    offline: Count
    """Nodes that the control plane has lost; they keep serving and follow when they return."""
    unassigned: Count
    """Nodes that nothing fits."""


class AssignmentStatus(Spec):
    """Nodes of one device class that run one draft model."""

    draft: Name
    """Name in the catalogue."""
    device_class: Name
    """Class of the nodes."""
    revision: Name
    """Revision of the resource that they run."""
    nodes: Count
    """Nodes with it."""
    ready: Count
    """Nodes where it is ready."""


class UnassignedNode(Spec):
    """A selected node that drafts nothing."""

    name: Name
    """The node."""
    reason: Name
    """Why, in one CamelCase word."""
    message: Text
    """Why, in a sentence."""


class ModelCounts(Spec):
    """Nodes by how far they are with fetching their draft model."""

    fetched: Count
    """The model is there."""
    fetching: Count
    """It is being downloaded."""
    waiting: Count
    """The download has not begun."""
    failed: Count
    """The last try failed; another follows."""


class NodeWithoutModel(Spec):
    """A node whose draft model is not there yet."""

    name: Name
    """The node."""
    draft: Name
    """Name in the catalogue."""
    state: Literal["Waiting", "Fetching", "Failed"]
    """How far it is."""
    message: Text
    """Why, as far as the node says."""


class RolloutStatus(Spec):
    """Where a change stands."""

    state: Literal["Complete", "Moving", "Soaking", "Waiting", "Paused", "Halted", "RolledBack"]
    """Waiting: for the maintenance window. Halted, RolledBack: a wave failed."""
    stable_revision: Name
    """Revision that all nodes ran when the last rollout was complete."""
    target_revision: Name
    """Revision that nodes move to."""
    wave: Name | None = None
    """Wave at work."""
    wave_index: Count = 0
    """Its position, counted from 0."""
    wave_started: Timestamp | None = None
    """When it began."""
    gates_held_since: Timestamp | None = None
    """Since when its gates hold."""
    message: Text = ""
    """What it waits for, or why it failed."""


class EdgeDrafterStatus(Spec):
    """What is observed of an EdgeDrafter."""

    observed_generation: Count | None = None
    """The generation that the operator has acted on."""
    conditions: Conditions | None = None
    """Ready, Available, Progressing, Degraded."""
    nodes: NodeCounts | None = None
    """Nodes by state."""
    summary: Text | None = None
    """Ready of selected nodes, as `4998/5000`."""
    assignments: Annotated[tuple[AssignmentStatus, ...], Field(max_length=96)] | None = None
    """Nodes by draft model, device class and revision."""
    unassigned_nodes: Annotated[tuple[UnassignedNode, ...], Field(max_length=50)] | None = None
    """The first 50 selected nodes that draft nothing."""
    models: ModelCounts | None = None
    """Nodes by how far they are with their draft model, where they fetch one."""
    nodes_without_model: Annotated[tuple[NodeWithoutModel, ...], Field(max_length=50)] | None = None
    """The first 50 nodes whose draft model is not there yet, failed ones first."""
    rollout: RolloutStatus | None = None
    """Where a change stands."""
