"""The judge of NetworkPolicies that the end-to-end tests rely on: it must be able to say no."""

from __future__ import annotations

import pytest

from sled_testkit.network_policy import Caller, lets_in

POD = {
    "metadata": {"labels": {"app": "a"}},
    "spec": {"containers": [{"ports": [{"name": "grpc", "containerPort": 7000}]}]},
}
BY_NAME = {"ports": [{"port": "grpc", "protocol": "TCP"}]}
RANGE = {"ports": [{"port": 100, "endPort": 200}]}
FRIENDS = {"from": [{"podSelector": {"matchLabels": {"team": "x"}}}]}
NEXT_DOOR = {
    "from": [{"namespaceSelector": {"matchExpressions": [{"key": "n", "operator": "Exists"}]}}]
}
STRANGER = Caller()
FRIEND = Caller({"team": "x"}, same_namespace=True)
NEIGHBOUR = Caller({"team": "x"}, {"n": "1"})


def policy(*rules: dict, selector: dict | None = None) -> dict:
    return {
        "spec": {"podSelector": selector or {"matchLabels": {"app": "a"}}, "ingress": list(rules)}
    }


@pytest.mark.parametrize(
    ("rules", "port", "caller", "expected"),
    [
        ((), 7000, FRIEND, False),
        ((BY_NAME,), 7000, STRANGER, True),
        ((BY_NAME,), 7001, STRANGER, False),
        ((RANGE,), 200, STRANGER, True),
        ((RANGE,), 201, STRANGER, False),
        ((FRIENDS,), 1, FRIEND, True),
        ((FRIENDS,), 1, STRANGER, False),
        ((FRIENDS,), 1, NEIGHBOUR, False),
        ((NEXT_DOOR,), 1, NEIGHBOUR, True),
        ((NEXT_DOOR,), 1, FRIEND, False),
        ((BY_NAME | FRIENDS,), 7000, STRANGER, False),
        ((FRIENDS, RANGE), 150, STRANGER, True),
    ],
)
def test_ingress(rules: tuple[dict, ...], port: int, caller: Caller, expected: bool) -> None:
    assert lets_in([policy(*rules)], POD, port, caller) is expected


def test_a_pod_that_nothing_selects_is_open() -> None:
    assert lets_in([policy(selector={"matchLabels": {"app": "b"}})], POD, 1, STRANGER)
    assert lets_in([], POD, 1, STRANGER)


def test_egress_alone_closes_nothing() -> None:
    spec = {"spec": {"podSelector": {}, "policyTypes": ["Egress"]}}
    assert lets_in([spec], POD, 1, STRANGER)
