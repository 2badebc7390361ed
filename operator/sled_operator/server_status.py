"""Status of a SLEDServer from what is observed. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sled_operator.conditions import Observation, Reason, Type

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that keeps a resource from being as its spec says."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Replicas:
    """What the StatefulSet reports; `settled` is False while its controller is behind."""

    wanted: int
    existing: int = 0
    ready: int = 0
    updated: int = 0
    settled: bool = True


def replicas_of(statefulset: Mapping[str, Any] | None, wanted: int) -> Replicas:
    """The counts of a StatefulSet; all zero when there is none."""
    if statefulset is None:
        return Replicas(wanted, settled=False)
    status = statefulset.get("status", {})
    generation = statefulset["metadata"].get("generation", 0)
    ready = status.get("readyReplicas", 0)
    existing = status.get("replicas", 0)
    current = status.get("currentRevision") == status.get("updateRevision")
    return Replicas(
        wanted=wanted,
        existing=existing,
        ready=ready,
        updated=existing if current else status.get("updatedReplicas", 0),
        settled=status.get("observedGeneration", 0) >= generation,
    )


def observe(replicas: Replicas, problems: Sequence[Problem]) -> list[Observation]:
    """All four conditions."""
    whole = (
        replicas.settled
        and replicas.ready == replicas.existing == replicas.wanted
        and replicas.updated == replicas.existing
    )
    text = f"{replicas.ready} of {replicas.wanted} replicas serve"
    if problems:
        first = problems[0]
        ready = Observation(Type.READY, False, first.reason, _sentences(problems))
        degraded = Observation(Type.DEGRADED, True, first.reason, _sentences(problems))
    else:
        reason = _reason(replicas, whole)
        ready = Observation(Type.READY, whole, reason, text)
        degraded = Observation(Type.DEGRADED, False, Reason.AS_DESIRED, "Nothing is wrong")
    moving = not whole
    return [
        ready,
        _available(replicas, text),
        Observation(Type.PROGRESSING, moving, _reason(replicas, whole), text),
        degraded,
    ]


def _available(replicas: Replicas, text: str) -> Observation:
    if replicas.ready:
        return Observation(Type.AVAILABLE, True, Reason.AS_DESIRED, text)
    if not replicas.wanted:
        message = "No replica runs; the first device that asks starts one"
        return Observation(Type.AVAILABLE, False, Reason.SCALED_TO_ZERO, message)
    return Observation(Type.AVAILABLE, False, Reason.NO_REPLICA_READY, text)


def _reason(replicas: Replicas, whole: bool) -> Reason:
    if whole:
        return Reason.AS_DESIRED if replicas.wanted else Reason.SCALED_TO_ZERO
    if replicas.updated < replicas.existing:
        return Reason.ROLLING_OUT
    return Reason.REPLICAS_STARTING


def _sentences(problems: Sequence[Problem]) -> str:
    return "; ".join(problem.message for problem in problems)[:4000]
