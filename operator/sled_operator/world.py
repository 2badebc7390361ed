"""What the operator knows of the cluster: resources, their objects, nodes and pods. Must not write.

Everything here is fed by watches on the event loop; readers never wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from sled_operator import measure
from sled_operator.autoscaler.sample import Stats
from sled_operator.cluster import kinds
from sled_operator.cluster.base import Object, Reader, Resource
from sled_operator.informer import Informer, Key
from sled_operator.members import Members
from sled_operator.names import (
    AHEAD_PREFIX,
    MANAGED_SELECTOR,
    NODE_PREFIX,
    ahead_label,
    node_label,
)
from sled_operator.spec import EdgeDrafter, InvalidResource, SLEDServer, parse
from sled_operator.views import NodeView, PodView, node_view, pod_view

WorkKey = tuple[str, str, str]
"""`SLEDServer` or `EdgeDrafter`, namespace, name; or `NodeLabel`, "", label key."""
SERVER, DRAFTER, LABEL = "SLEDServer", "EdgeDrafter", "NodeLabel"


@dataclass(slots=True)
class Telemetry:
    """The newest answers of one server's replicas; None for a replica that gave none."""

    answers: list[Stats | None] = field(default_factory=list)
    ledger: measure.Ledger = field(default_factory=measure.Ledger)


class World:
    """All that is known, and who must look again when it changes.

    `look` is called for what a device or a user waits for, `look_soon` for what comes in bursts: a
    drafter's pods and objects, which change by thousands during a rollout.
    """

    def __init__(
        self,
        reader: Reader,
        namespace: str,
        look: Callable[[WorkKey], None],
        look_soon: Callable[[WorkKey], None],
    ) -> None:
        self.servers: dict[Key, SLEDServer] = {}
        self.drafters: dict[Key, EdgeDrafter] = {}
        self.telemetry: dict[Key, Telemetry] = {}
        self._look = look
        self._look_soon = look_soon
        self._members: dict[Key, Members] = {}
        self._by_owner: dict[str, set[tuple[str, Key]]] = {}
        self._pods_of: dict[WorkKey, dict[Key, PodView]] = {}
        self.nodes: Informer[NodeView] = Informer(reader, kinds.NODE, node_view, self._node_changed)
        self.pods: Informer[PodView] = Informer(
            reader,
            kinds.POD,
            pod_view,
            self._pod_changed,
            namespace=namespace,
            selector=MANAGED_SELECTOR,
        )
        self.owned: dict[str, Informer[Object]] = {
            resource.kind: self._owned_informer(reader, resource, namespace)
            for resource in kinds.OWNED
        }

    @property
    def informers(self) -> list[Informer[NodeView] | Informer[PodView] | Informer[Object]]:
        """All watches, to be run."""
        return [self.nodes, self.pods, *self.owned.values()]

    def put(self, document: Object) -> None:
        """Take in what a write of ours returned."""
        informer = self.owned.get(document["kind"])
        if informer is not None:
            informer.put(document)

    def learn(self, document: Object) -> None:
        """Take in a SLEDServer or EdgeDrafter; one that is invalid is known to nobody."""
        meta = document["metadata"]
        key = (meta["namespace"], meta["name"])
        try:
            parsed = parse(document)
        except InvalidResource:
            self.forget(document["kind"], key)
            return
        if isinstance(parsed, SLEDServer):
            changed = self.servers.get(key) != parsed
            self.servers[key] = parsed
            if changed:
                self._look_at_drafters_of(key)
        else:
            self.drafters[key] = parsed
            members = self._members.get(key)
            if members is None or members.selector != parsed.spec.node_selector:
                self._members[key] = Members.of(parsed, self.nodes.items())

    def forget(self, kind: str, key: Key) -> None:
        """Drop a resource that is gone or invalid."""
        if kind == SERVER:
            self.telemetry.pop(key, None)
            if self.servers.pop(key, None) is not None:
                self._look_at_drafters_of(key)
        else:
            self.drafters.pop(key, None)
            self._members.pop(key, None)

    def owned_by(self, uid: str) -> list[Object]:
        """Objects whose owner has that uid."""
        found = (self.owned[kind].get(key) for kind, key in self._by_owner.get(uid, ()))
        return [document for document in found if document is not None]

    def pods_of(self, kind: str, key: Key) -> Iterable[PodView]:
        """Pods of one resource."""
        return self._pods_of.get((kind, *key), {}).values()

    def nodes_of(self, drafter: Key) -> Iterable[NodeView]:
        """Nodes that an EdgeDrafter selects, or that carry a label of its."""
        members = self._members.get(drafter)
        return members.nodes.values() if members else ()

    def stale_labels(self) -> set[str]:
        """Node labels of ours whose EdgeDrafter is not known."""
        known = {each(*key) for key in self.drafters for each in (node_label, ahead_label)}
        found = {
            label
            for _, node in self.nodes.items()
            for label in node.labels
            if label.startswith((NODE_PREFIX, AHEAD_PREFIX))
        }
        return found - known

    def keys(self) -> Iterator[WorkKey]:
        """Every known resource."""
        yield from ((SERVER, *key) for key in self.servers)
        yield from ((DRAFTER, *key) for key in self.drafters)

    def _look_at_drafters_of(self, server: Key) -> None:
        for key, drafter in self.drafters.items():
            if key[0] == server[0] and drafter.spec.server.name == server[1]:
                self._look((DRAFTER, *key))

    def _owned_informer(
        self, reader: Reader, resource: Resource, namespace: str
    ) -> Informer[Object]:
        def project(document: Object) -> Object:
            """List items carry no kind of their own."""
            document["apiVersion"], document["kind"] = resource.api_version, resource.kind
            return document

        def changed(key: Key, old: Object | None, new: Object | None) -> None:
            for document, present in ((old, False), (new, True)):
                for owner in (document or {}).get("metadata", {}).get("ownerReferences", ()):
                    if owner.get("kind") not in (SERVER, DRAFTER):
                        continue
                    entries = self._by_owner.setdefault(owner["uid"], set())
                    (entries.add if present else entries.discard)((resource.kind, key))
                    if not entries:
                        del self._by_owner[owner["uid"]]
                    self._look_at_owner((owner["kind"], key[0], owner["name"]))

        return Informer(
            reader,
            resource,
            project,
            changed,
            namespace=namespace,
            selector=MANAGED_SELECTOR,
        )

    def _pod_changed(self, key: Key, old: PodView | None, new: PodView | None) -> None:
        for pod in (old, new):
            if pod is None:
                continue
            kind, name = (SERVER, pod.server) if pod.server else (DRAFTER, pod.drafter)
            work = (kind, pod.namespace, name)
            entries = self._pods_of.setdefault(work, {})
            if pod is new:
                entries[key] = pod
            else:
                entries.pop(key, None)
            if not entries:
                self._pods_of.pop(work, None)
            self._look_at_owner(work)

    def _look_at_servers_on(self, node: str) -> None:
        for work, pods in self._pods_of.items():
            if work[0] == SERVER and any(pod.node == node for pod in pods.values()):
                self._look(work)

    def _look_at_owner(self, key: WorkKey) -> None:
        (self._look_soon if key[0] == DRAFTER else self._look)(key)

    def node_answers(self, name: str) -> bool | None:
        """Whether a node is online; None when it does not exist."""
        view = self.nodes.get(("", name))
        return None if view is None else view.online

    def _node_changed(self, key: Key, old: NodeView | None, new: NodeView | None) -> None:
        if old is not None and old.online and new is not None and not new.online:
            self._look_at_servers_on(key[1])
        for name, members in self._members.items():
            if members.take(key, new):
                self._look((DRAFTER, *name))
