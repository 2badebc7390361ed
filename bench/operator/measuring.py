"""The parts of the benchmark, each a dictionary of figures with their units in the names."""

from __future__ import annotations

import datetime
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fleet
from fleet import Size

from sled_testkit.cluster import ControlPlane
from sled_testkit.cluster_operator import OperatorProcess

GROUP = "/apis/sled.dev/v1alpha1"
DRAFTERS = f"{GROUP}/namespaces/default/edgedrafters"
PODS = "/api/v1/namespaces/default/pods"
LEASE = ("leases", "update")
POLL_SECONDS = 2.0
REST_CPU_SECONDS = 1.0
"""Processor time in five seconds below which the control plane is at rest."""

Figures = dict[str, float]
Report = Callable[[str], None]


def assignment(plane: ControlPlane, operator: OperatorProcess, size: Size) -> Figures:
    """From the moment the operator leads: until nodes are listed and indexed, and until every node
    carries its label (and every status says so).
    """
    before = plane.cpu_seconds()

    def all_assigned(found: dict[str, Any]) -> bool:
        return _nodes(found, "assigned") == size.nodes

    plane.api.wait_all(DRAFTERS, all_assigned, timeout_seconds=900)
    ended = _labelled(plane, operator, size)
    marks = _log_times(operator.log)
    return {
        "list_seconds": marks["working"] - marks["leading"],
        "assign_seconds": ended - marks["leading"],
        "assign_operator_cpu_seconds": operator.cpu_seconds(),
        **{
            f"assign_{name.replace('-', '_')}_cpu_seconds": seconds - before[name]
            for name, seconds in plane.cpu_seconds().items()
        },
    }


def pods_ready(plane: ControlPlane, size: Size) -> Figures:
    """What Kubernetes' own controllers then need to place every pod."""
    began = time.monotonic()

    def all_ready(found: dict[str, Any]) -> bool:
        return _nodes(found, "ready") == size.nodes

    plane.api.wait_all(DRAFTERS, all_ready, timeout_seconds=1800)
    return {"then_pods_ready_seconds": time.monotonic() - began}


def joins(plane: ControlPlane, size: Size) -> Figures:
    """Nodes that join one after the other: from their creation until a drafter pod is bound."""
    waits = []
    for index in range(size.joins):
        body = fleet.node(index, size, prefix="late")
        name = body["metadata"]["name"]
        began = time.monotonic()
        plane.api.create("/api/v1/nodes", body)
        plane.api.wait_all(PODS, bool, fieldSelector=f"spec.nodeName={name}", timeout_seconds=60)
        waits.append(time.monotonic() - began)
    waits.sort()
    return {
        "join_p50_seconds": waits[len(waits) // 2],
        "join_p99_seconds": waits[min(len(waits) - 1, len(waits) * 99 // 100)],
    }


def idle(plane: ControlPlane, operator: OperatorProcess, size: Size) -> Figures:
    """A while in which nothing happens: processor time, memory, and writes by the audit log."""
    mark, cpu, began = plane.audit.mark(), operator.cpu_seconds(), time.monotonic()
    time.sleep(size.idle_seconds)  # the measurement itself: nothing happens for this long
    seconds = time.monotonic() - began
    writes = Counter((e.resource, e.verb) for e in plane.audit.writes(operator.user, mark))
    return {
        "rss_mb": operator.memory_bytes() / 1e6,
        "idle_core_percent": 100 * (operator.cpu_seconds() - cpu) / seconds,
        "idle_writes": sum(count for what, count in writes.items() if what != LEASE),
        "idle_lease_renewals": writes[LEASE],
        "refused_calls": len(plane.audit.forbidden(operator.user)),
    }


def settle_nodes(plane: ControlPlane) -> None:
    """Wait until no controller has anything left to do about the nodes.

    Raises:
        TimeoutError: they do not come to rest.
    """
    for _ in range(120):
        before = plane.cpu_seconds()
        time.sleep(5)
        busy = sum(plane.cpu_seconds().values()) - sum(before.values())
        tainted = any(n["spec"].get("taints") for n in plane.api.items("/api/v1/nodes"))
        if busy < REST_CPU_SECONDS and not tainted:
            return
    raise TimeoutError("the nodes do not come to rest")


def settle(plane: ControlPlane, operator: OperatorProcess) -> None:
    """Wait until the operator writes nothing but its lease.

    Raises:
        TimeoutError: it does not stop.
    """
    for _ in range(60):
        mark = plane.audit.mark()
        time.sleep(20)
        writes = plane.audit.writes(operator.user, mark)
        if all((each.resource, each.verb) == LEASE for each in writes):
            return
    raise TimeoutError("the operator keeps writing")


def _labelled(plane: ControlPlane, operator: OperatorProcess, size: Size) -> float:
    """When the last node got its label, by the audit log: asking the API server costs it time."""
    while True:
        first: dict[str, str] = {}
        for entry in plane.audit.entries(operator.user):
            if (entry.resource, entry.verb, entry.code) == ("nodes", "patch", 200):
                first.setdefault(entry.name, entry.timestamp)
        if len(first) >= size.nodes:
            return datetime.datetime.fromisoformat(max(first.values())).timestamp()
        time.sleep(POLL_SECONDS)


def _nodes(drafters: dict[str, Any], state: str) -> int:
    counts = [each.get("status", {}).get("nodes", {}) for each in drafters.values()]
    return sum(int(each.get(state, 0)) for each in counts)


def _log_times(log: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for line in log.read_text().splitlines():
        if line.startswith("{"):
            entry = json.loads(line)
            moment = datetime.datetime.fromisoformat(entry["time"]).timestamp()
            found.setdefault(entry["message"], moment)
    return found
