"""Status of an EdgeDrafter from what is observed. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sled_operator.assignment.assign import Refusal
from sled_operator.conditions import Observation, Reason, Type
from sled_operator.drafter_plan import Fleet, Given, Placement
from sled_operator.rollout import REST, Progress, State, first
from sled_operator.server_status import Problem
from sled_operator.spec.rollout import Rollout
from sled_operator.views import Fetch, PodView

Json = dict[str, Any]
MAX_LISTED = 50


def counts(nodes: Fleet, placement: Placement) -> Json:
    """Nodes by state. A node that the control plane has lost is offline whatever its pod said."""
    selected = nodes.selected.values()
    offline = sum(not view.online for view in selected)
    ready = sum(
        (name, given) in nodes.ready and nodes.selected[name].online
        for name, given in placement.wanted.items()
    )
    return {
        "selected": len(nodes.selected),
        "assigned": len(placement.wanted),
        "ready": ready,
        "offline": offline,
        "unassigned": len(placement.refused),
    }


def assignments(nodes: Fleet, wanted: Mapping[str, Given]) -> list[Json]:
    """Nodes and ready nodes by what they were given."""
    total = Counter(wanted.values())
    ready = Counter(given for name, given in wanted.items() if (name, given) in nodes.ready)
    return [
        {
            "draft": given.draft,
            "deviceClass": given.device_class,
            "revision": given.revision,
            "nodes": total[given],
            "ready": ready[given],
        }
        for given in sorted(total)
    ][:96]


def unassigned(refused: Mapping[str, Refusal]) -> list[Json]:
    """The first nodes that draft nothing, and why."""
    return [
        {"name": name, "reason": str(refusal.reason), "message": refusal.message}
        for name, refusal in sorted(refused.items())[:MAX_LISTED]
    ]


def models(nodes: Fleet) -> Json | None:
    """How far nodes are with fetching their model; None when none fetches any."""
    if not nodes.fetches:
        return None
    found = Counter(pod.fetch for pod in nodes.fetches.values())
    return {
        "fetched": found[Fetch.DONE],
        "fetching": found[Fetch.FETCHING],
        "waiting": found[Fetch.WAITING],
        "failed": found[Fetch.FAILED],
    }


def without_model(nodes: Fleet) -> list[Json]:
    """The first nodes whose model is not there yet, failed ones first, and why."""
    missing = sorted(
        (pod.fetch is not Fetch.FAILED, name, pod)
        for name, pod in nodes.fetches.items()
        if pod.fetch is not Fetch.DONE
    )
    return [
        {"name": name, "draft": pod.draft, "state": str(pod.fetch), "message": pod.fetch_message}
        for _, name, pod in missing[:MAX_LISTED]
    ]


def fetch_problem(pods: Iterable[PodView]) -> Problem | None:
    """What to say when models cannot be fetched."""
    failed = sorted((pod.node, pod.fetch_message) for pod in pods if pod.fetch is Fetch.FAILED)
    if not failed:
        return None
    node, why = failed[0]
    others = f" and {len(failed) - 1} others" if len(failed) > 1 else ""
    return Problem(Reason.MODEL_NOT_FETCHED, f"node {node}{others} cannot fetch the model: {why}")


def rollout_status(spec: Rollout, progress: Progress) -> Json:
    """Where the change stands, in the form that `progress_from` reads back."""
    names = [*(wave.name for wave in spec.waves), REST]
    status: Json = {
        "state": str(progress.state),
        "stableRevision": progress.stable,
        "targetRevision": progress.target,
        "waveIndex": progress.wave_index,
        "message": progress.message,
    }
    if progress.state is not State.COMPLETE and progress.wave_index < len(names):
        status["wave"] = names[progress.wave_index]
    for name, value in (
        ("waveStarted", progress.wave_started),
        ("gatesHeldSince", progress.gates_held_since),
    ):
        if value is not None:
            status[name] = timestamp(value)
    return status


def progress_from(status: Mapping[str, Any] | None, wanted: str) -> Progress:
    """The progress that a status holds; a fresh one when it holds none or nonsense."""
    if not status:
        return first(wanted)
    try:
        return Progress(
            state=State(status["state"]),
            stable=str(status["stableRevision"]),
            target=str(status["targetRevision"]),
            wave_index=int(status.get("waveIndex", 0)),
            wave_started=_seconds(status.get("waveStarted")),
            gates_held_since=_seconds(status.get("gatesHeldSince")),
            message=str(status.get("message", "")),
        )
    except (KeyError, ValueError):
        return first(wanted)


def observe(
    numbers: Mapping[str, int], progress: Progress, problems: Sequence[Problem]
) -> list[Observation]:
    """All four conditions."""
    found = [*problems, *_troubles(numbers, progress)]
    expected = numbers["assigned"] - min(numbers["offline"], numbers["assigned"])
    text = f"{numbers['ready']} of {expected} online nodes draft"
    if numbers["offline"]:
        text += f", {numbers['offline']} are offline"
    moving = progress.state in (State.MOVING, State.SOAKING, State.WAITING)
    starting = numbers["ready"] < expected
    reason = Reason.AS_DESIRED
    if moving:
        reason = Reason.ROLLING_OUT
    elif starting:
        reason = Reason.DRAFTERS_STARTING
    whole = not found and not moving and not starting
    ready_reason = found[0].reason if found else reason
    message = "; ".join(problem.message for problem in found)[:4000] if found else text
    if moving and not found:
        message = f"{text}; {progress.message}"
    return [
        Observation(Type.READY, whole, ready_reason, message),
        Observation(
            Type.AVAILABLE,
            numbers["ready"] > 0,
            Reason.AS_DESIRED if numbers["ready"] else Reason.NO_DRAFTER_READY,
            text,
        ),
        Observation(Type.PROGRESSING, moving or starting, reason, text),
        Observation(
            Type.DEGRADED,
            bool(found),
            found[0].reason if found else Reason.AS_DESIRED,
            message if found else "Nothing is wrong",
        ),
    ]


def _troubles(numbers: Mapping[str, int], progress: Progress) -> list[Problem]:
    found = []
    if progress.state is State.HALTED:
        found.append(Problem(Reason.ROLLOUT_HALTED, progress.message))
    if progress.state is State.ROLLED_BACK:
        found.append(Problem(Reason.ROLLOUT_ROLLED_BACK, progress.message))
    if not numbers["selected"]:
        found.append(Problem(Reason.NO_NODES, "nodeSelector matches no node"))
    if numbers["unassigned"]:
        count = numbers["unassigned"]
        which = "1 node fits" if count == 1 else f"{count} nodes fit"
        text = f"{which} no draft, see status.unassignedNodes"
        found.append(Problem(Reason.NODES_UNASSIGNED, text))
    return found


def timestamp(seconds: float) -> str:
    """RFC 3339, as Kubernetes writes it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _seconds(text: object) -> float | None:
    if text is None:
        return None
    return datetime.strptime(str(text), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
