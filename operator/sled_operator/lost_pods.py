"""Which verifier pods hold up their own replacement, because their node is gone. Pure.

A StatefulSet starts no new pod under a name while the old one exists, and only the old one's node
can say that it has ended. For a node that has lost its power that is never. A verifier holds soft
state only, so two of one name do no harm, and the operator need not wait for a person.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sled_operator.spec import SLEDServer
from sled_operator.views import PodView

NODE_LOSS_SECONDS = 30
"""How long a verifier stays bound to a node that Kubernetes calls not ready or unreachable."""


def may_be_replaced(server: SLEDServer) -> bool:
    """Whether two pods of one name are harmless: not where both would write to one volume."""
    return server.spec.cache.type != "PersistentVolume"


def lost(pods: Iterable[PodView], online: Callable[[str], bool | None]) -> list[PodView]:
    """Pods that Kubernetes has told to end on a node that does not answer.

    Args:
        pods: of one server.
        online: whether a node answers; None for a node that does not exist, whose pods Kubernetes
            removes itself.
    """
    return [pod for pod in pods if pod.terminating and pod.node and online(pod.node) is False]
