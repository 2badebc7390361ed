"""What a site looks like at the moment a scenario fails, for whoever reads the report. Reads only."""

from __future__ import annotations

from sled_testkit.cluster_api import Object
from sled_testkit.cluster_process import ProcessFailed
from sled_testkit.e2e_site import Site, is_pod_ready, node_of
from sled_testkit.e2e_specs import FLEET, PODS, SYSTEM

EVENTS = 12
"""The newest warnings; older ones are of earlier scenarios."""


def describe(site: Site) -> str:
    """Programs that have ended, nodes, pods and the newest warnings, a line each."""
    lines = [_programs(site)]
    lines += [_node(node) for node in site.api.items("/api/v1/nodes")]
    for path in (PODS, PODS.replace(FLEET, SYSTEM)):
        lines += [_pod(pod) for pod in site.api.items(path)]
    warnings = site.api.items(f"/api/v1/namespaces/{FLEET}/events", fieldSelector="type=Warning")
    warnings.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime")))
    return "\n".join([*lines, *map(_event, warnings[-EVENTS:])])


def _programs(site: Site) -> str:
    try:
        site.cluster.check()
    except ProcessFailed as ended:
        return str(ended)
    again = [f"{name} {count}" for name, count in site.cluster.plane.revived().items() if count]
    return f"all programs of the control plane run; started again: {', '.join(again) or 'none'}"


def _node(node: Object) -> str:
    conditions = node["status"].get("conditions", ())
    ready = next((each["status"] for each in conditions if each["type"] == "Ready"), "unknown")
    return f"node {node['metadata']['name']}: ready {ready}"


def _pod(pod: Object) -> str:
    status = pod.get("status", {})
    parts = [f"pod {pod['metadata']['name']} on {node_of(pod) or 'no node'}: {status.get('phase')}"]
    parts.append("ready" if is_pod_ready(pod) else "not ready")
    if since := pod["metadata"].get("deletionTimestamp"):
        parts.append(f"to be gone by {since}")
    for container in status.get("containerStatuses", ()):
        waiting = container["state"].get("waiting", {}).get("reason", "")
        parts.append(f"{container['restartCount']} restarts {waiting}".rstrip())
    for condition in status.get("conditions", ()):
        if condition["status"] == "False" and condition.get("message"):
            parts.append(str(condition["message"]))
    return ", ".join(parts)


def _event(event: Object) -> str:
    return f"{event['involvedObject']['name']}: {event.get('reason')}: {event.get('message')}"
