"""Condition types and reasons, as documented constants, and how conditions change over time. Pure.

`docs/reference/conditions.md` lists them from here.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class Type(enum.StrEnum):
    """What a condition is about. All are observations; none is a state of a machine."""

    READY = "Ready"
    """True when everything that the spec asks for is there and serves. Goes back to False."""
    AVAILABLE = "Available"
    """True when text can be generated, though perhaps not everywhere or at full speed."""
    PROGRESSING = "Progressing"
    """True while something moves towards the spec by itself."""
    DEGRADED = "Degraded"
    """True when something is wrong that waiting may not heal; the message says what to do."""


class Reason(enum.StrEnum):
    """Why a condition is as it is."""

    AS_DESIRED = "AsDesired"
    """Everything is as the spec says."""
    INVALID_SPEC = "InvalidSpec"
    """The spec cannot be understood; what ran before keeps running."""
    SCALED_TO_ZERO = "ScaledToZero"
    """No replica runs, and none is wanted until a device asks."""
    REPLICAS_STARTING = "ReplicasStarting"
    """Some replicas do not serve yet."""
    NO_REPLICA_READY = "NoReplicaReady"
    """No replica serves."""
    ROLLING_OUT = "RollingOut"
    """Pods are being replaced."""
    OBJECT_REFUSED = "ObjectRefused"
    """The API server refused an object, for example because of a quota or an admission policy."""
    SECRET_MISSING = "SecretMissing"
    """A Secret that the spec names does not exist, or lacks a key."""
    MODEL_NOT_FETCHED = "ModelNotFetched"
    """A model cannot be fetched on some nodes; the kubelet goes on trying."""
    KIND_MISSING = "KindMissing"
    """The cluster lacks a kind that the spec needs, such as cert-manager's Certificate."""
    SERVER_NOT_FOUND = "ServerNotFound"
    """The SLEDServer that the spec names does not exist, or its spec is invalid."""
    NO_NODES = "NoNodes"
    """The node selector matches no node."""
    NODES_UNASSIGNED = "NodesUnassigned"
    """Some selected nodes fit none of the drafts."""
    DRAFTERS_STARTING = "DraftersStarting"
    """Some drafters do not serve yet."""
    NO_DRAFTER_READY = "NoDrafterReady"
    """No drafter serves."""
    ROLLOUT_HALTED = "RolloutHalted"
    """A wave did not pass its gates, and the rollout stands still."""
    ROLLOUT_ROLLED_BACK = "RolloutRolledBack"
    """A wave did not pass its gates, and the nodes run the revision before."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One condition without its history."""

    type: Type
    status: bool
    reason: Reason
    message: str


def fold(
    before: Iterable[Mapping[str, Any]],
    observations: Sequence[Observation],
    generation: int,
    now: str,
) -> list[dict[str, Any]]:
    """Conditions for the status; a transition time moves only when the status does.

    Conditions of other types, which somebody else may have put there, are kept.
    """
    old = {condition.get("type"): condition for condition in before}
    result = []
    for seen in observations:
        status = "True" if seen.status else "False"
        known = old.pop(str(seen.type), {})
        same = known.get("status") == status and known.get("lastTransitionTime")
        result.append(
            {
                "type": str(seen.type),
                "status": status,
                "reason": str(seen.reason),
                "message": seen.message,
                "lastTransitionTime": known["lastTransitionTime"] if same else now,
                "observedGeneration": generation,
            }
        )
    return result + [dict(condition) for condition in old.values()]
