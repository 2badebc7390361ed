"""What is kept of nodes and pods: a few fields of each, whole objects of nothing. Pure.

A node is about 20 kB on the wire and 300 bytes here, and its heartbeat changes nothing that is
kept.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from sled_operator.assignment.classes import NodeFacts
from sled_operator.cluster.base import Object
from sled_operator.names import (
    AHEAD,
    DEVICE_CLASS,
    DRAFT,
    DRAFTER,
    FETCH_PREFIX,
    REVISION,
    SERVER,
)

MAX_MESSAGE = 200
_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9}


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node: what it is, what it carries, whether it is online."""

    facts: NodeFacts
    online: bool

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels, ours included."""
        return self.facts.labels


class Fetch(enum.StrEnum):
    """How far a pod is with its model."""

    NONE = ""
    """It brings none, or fetches none by itself."""
    WAITING = "Waiting"
    """Not begun: no image yet, or no node."""
    FETCHING = "Fetching"
    """Its init container is at work."""
    FAILED = "Failed"
    """The last try failed; the kubelet tries again."""
    DONE = "Done"
    """The model is there."""


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod of ours."""

    name: str
    namespace: str
    node: str
    ready: bool
    address: str
    server: str
    drafter: str
    draft: str = ""
    device_class: str = ""
    revision: str = ""
    terminating: bool = field(default=False)
    uid: str = field(default="")
    ahead: bool = field(default=False)
    """It only fetches the model that its node will move to."""
    fetch: Fetch = field(default=Fetch.NONE)
    fetch_message: str = field(default="")
    """Why the model is not there yet, as the kubelet says it."""


def node_view(document: Object) -> NodeView:
    """The kept part of a Node."""
    meta, status = document["metadata"], document.get("status", {})
    allocatable = status.get("allocatable", status.get("capacity", {}))
    labels = meta.get("labels", {})
    architecture = status.get("nodeInfo", {}).get("architecture") or labels.get(
        "kubernetes.io/arch"
    )
    facts = NodeFacts(
        name=meta["name"],
        labels=labels,
        architecture=architecture or "",
        cpus=int(_amount(allocatable.get("cpu", "1"))) or 1,
        memory_mib=int(_amount(allocatable.get("memory", "0")) // 2**20),
    )
    return NodeView(facts, _is(status, "Ready"))


def pod_view(document: Object) -> PodView:
    """The kept part of a Pod."""
    meta, status = document["metadata"], document.get("status", {})
    labels = meta.get("labels", {})
    fetch, message = _fetch(document)
    return PodView(
        name=meta["name"],
        namespace=meta["namespace"],
        node=document.get("spec", {}).get("nodeName", ""),
        ready=_is(status, "Ready"),
        address=status.get("podIP", ""),
        server=labels.get(SERVER, ""),
        drafter=labels.get(DRAFTER) or labels.get(AHEAD, ""),
        draft=labels.get(DRAFT, ""),
        device_class=labels.get(DEVICE_CLASS, ""),
        revision=labels.get(REVISION, ""),
        terminating="deletionTimestamp" in meta,
        uid=meta.get("uid", ""),
        ahead=AHEAD in labels,
        fetch=fetch,
        fetch_message=message,
    )


def _fetch(document: Object) -> tuple[Fetch, str]:
    """How far the init container is that fetches the model; an image volume is the kubelet's."""
    spec, status = document.get("spec", {}), document.get("status", {})
    names = [each["name"] for each in spec.get("initContainers", ())]
    fetching = [name for name in names if name.startswith(FETCH_PREFIX)]
    if not fetching:
        return Fetch.NONE, ""
    told = {each.get("name"): each for each in status.get("initContainerStatuses", ())}
    for name in fetching:
        found = _progress(told[name]) if name in told else (Fetch.WAITING, "")
        if found[0] is not Fetch.DONE:
            return found
    return Fetch.DONE, ""


def _progress(container: Object) -> tuple[Fetch, str]:
    state = container.get("state", {})
    ended = state.get("terminated") or container.get("lastState", {}).get("terminated") or {}
    failed = ended.get("exitCode", 0) != 0
    reason = str(ended.get("message") or ended.get("reason") or "").strip()[-MAX_MESSAGE:]
    if "running" in state:
        return Fetch.FETCHING, f"tried before: {reason}" if failed else ""
    if failed:
        return Fetch.FAILED, reason
    if "terminated" in state:
        return Fetch.DONE, ""
    waiting = state.get("waiting", {})
    return Fetch.WAITING, str(waiting.get("message") or waiting.get("reason") or "")[:MAX_MESSAGE]


def _is(status: Object, condition: str) -> bool:
    return any(
        item.get("type") == condition and item.get("status") == "True"
        for item in status.get("conditions", ())
    )


def _amount(text: str) -> float:
    """A Kubernetes quantity as a number; 0 when it is not one."""
    try:
        if text.endswith("m"):
            return float(text[:-1]) / 1000
        for unit, factor in _UNITS.items():
            if text.endswith(unit):
                return float(text[: -len(unit)]) * factor
        return float(text)
    except ValueError:
        return 0.0
