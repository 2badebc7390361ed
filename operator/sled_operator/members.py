"""Which nodes concern an EdgeDrafter. Pure bookkeeping, so that a look costs what its own nodes cost
and not what the cluster's do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sled_operator.informer import Key
from sled_operator.names import ahead_label, node_label
from sled_operator.spec import EdgeDrafter
from sled_operator.views import NodeView


@dataclass(frozen=True, slots=True)
class Members:
    """Nodes that one EdgeDrafter selects, or that carry a label of its."""

    selector: Mapping[str, str]
    labels: frozenset[str]
    nodes: dict[Key, NodeView] = field(default_factory=dict)

    @classmethod
    def of(cls, drafter: EdgeDrafter, nodes: Iterable[tuple[Key, NodeView]]) -> Members:
        """Go through all nodes once."""
        identity = (drafter.metadata.namespace, drafter.metadata.name)
        members = cls(
            dict(drafter.spec.node_selector),
            frozenset((node_label(*identity), ahead_label(*identity))),
        )
        for key, node in nodes:
            members.take(key, node)
        return members

    def take(self, key: Key, node: NodeView | None) -> bool:
        """Take in a node as it is now, None for one that is gone; True when it concerns or did."""
        known = key in self.nodes
        if node is not None and self._concern(node.labels):
            self.nodes[key] = node
            return True
        if known:
            del self.nodes[key]
        return known

    def _concern(self, labels: Mapping[str, str]) -> bool:
        if not self.labels.isdisjoint(labels):
            return True
        return all(labels.get(name) == value for name, value in self.selector.items())
