"""Which connections to a pod the NetworkPolicies of its namespace let in. Pure.

Why: the test network carries everything, so what the policies forbid is judged by their own
semantics (Kubernetes API reference, NetworkPolicySpec): a pod that a policy with Ingress selects
accepts what one of these policies allows and nothing else; a pod that none selects accepts all.
Peers are compared by pod and namespace labels only. Must not know any policy of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who connects; a caller without labels is outside the cluster or unknown."""

    labels: Mapping[str, str] = field(default_factory=dict)
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    same_namespace: bool = False


def lets_in(policies: Iterable[Object], pod: Object, port: int, caller: Caller) -> bool:
    """Whether `caller` may open a TCP connection to `port` of `pod`.

    Raises:
        NotImplementedError: a policy uses an IP block, which this does not judge.
    """
    labels = pod["metadata"].get("labels", {})
    specs = [each["spec"] for each in policies]
    judging = [
        spec
        for spec in specs
        if _selects(spec.get("podSelector", {}), labels)
        and "Ingress" in spec.get("policyTypes", ["Ingress"])
    ]
    if not judging:
        return True
    names = _port_names(pod)
    rules = [rule for spec in judging for rule in spec.get("ingress", ())]
    return any(_ports_fit(rule, port, names) and _peers_fit(rule, caller) for rule in rules)


def _port_names(pod: Object) -> dict[str, int]:
    ports = [port for each in pod["spec"]["containers"] for port in each.get("ports", ())]
    return {port["name"]: port["containerPort"] for port in ports if "name" in port}


def _ports_fit(rule: Object, port: int, names: Mapping[str, int]) -> bool:
    ports = rule.get("ports")
    return not ports or any(_port_fits(each, port, names) for each in ports)


def _port_fits(allowed: Object, port: int, names: Mapping[str, int]) -> bool:
    if allowed.get("protocol", "TCP") != "TCP":
        return False
    if "port" not in allowed:
        return True
    first = allowed["port"]
    if isinstance(first, str):
        return names.get(first) == port
    last: int = allowed.get("endPort") or first
    return bool(first <= port <= last)


def _peers_fit(rule: Object, caller: Caller) -> bool:
    peers = rule.get("from")
    return not peers or any(_peer_fits(each, caller) for each in peers)


def _peer_fits(peer: Object, caller: Caller) -> bool:
    if "ipBlock" in peer:
        raise NotImplementedError("IP blocks are not judged")
    inside = caller.same_namespace
    if "namespaceSelector" in peer:
        inside = _selects(peer["namespaceSelector"], caller.namespace_labels)
    return inside and _selects(peer.get("podSelector", {}), caller.labels)


def _selects(selector: Object, labels: Mapping[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items()
    return all(labels.get(key) == value for key, value in wanted) and all(
        _holds(each, labels) for each in selector.get("matchExpressions", ())
    )


def _holds(expression: Object, labels: Mapping[str, str]) -> bool:
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    raise NotImplementedError(expression["operator"])
