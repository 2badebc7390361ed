"""A cluster one of whose nodes this process plays: its pods have loopback addresses, where the
test answers GetStats over gRPC.

Why: scaling and rollouts follow what verifiers measure, and fake nodes run no verifier. Must not know
what a test expects.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sled_testkit import cluster_nodes
from sled_testkit.cluster import ControlPlane
from sled_testkit.cluster_api import Object
from sled_testkit.cluster_operator import OperatorProcess
from sled_testkit.sled_resources import apply, install
from sled_testkit.stats_stub import POD_CIDR, StubVerifiers, addresses

FAKE: Object = {"model": {"name": "toy"}, "engine": {"kind": "Fake"}}
PLAIN: Object = {"tls": {"mode": "Disabled"}, "auth": {"mode": "None"}}
SETTINGS = {"SLED_STATS_SECONDS": "1", "SLED_RESYNC_SECONDS": "10"}


def prepare(plane: ControlPlane, edges: int) -> ControlPlane:
    """The chart's rights; nodes of the pools `played` and `other`; devices, two of them in the
    north."""
    install(plane)
    played = cluster_nodes.node("played", labels={"pool": "played"}, architecture="amd64")
    played["spec"] = {"podCIDR": POD_CIDR, "podCIDRs": [POD_CIDR]}
    other = cluster_nodes.node("other", labels={"pool": "other"}, architecture="amd64")
    labels = {"sled.dev/device": "true", "sled.dev/device-class": "pi5"}
    devices = [
        cluster_nodes.node(
            f"pi-{index}", labels={**labels, "site": "north" if index < 2 else "south"}
        )
        for index in range(edges)
    ]
    plane.create_nodes([played, other, *devices])
    return plane


def running_operator(plane: ControlPlane) -> Iterator[OperatorProcess]:
    """A real operator that asks verifiers every second; nothing is forbidden to it."""
    process = OperatorProcess(plane, settings=SETTINGS)
    process.start()
    yield process
    process.check()
    process.stop()
    assert plane.audit.forbidden(process.user) == []


def listening_verifiers() -> Iterator[StubVerifiers]:
    """What answers for the pods of the pool `played`."""
    stub = StubVerifiers()
    stub.listen(addresses())
    yield stub
    stub.close()


def server(plane: ControlPlane, name: str, pool: str, **spec: Any) -> None:
    """Apply a SLEDServer whose pods run in a pool, in plain text."""
    placed = {"nodeSelector": {"pool": pool}}
    apply(plane, "SLEDServer", name, {**FAKE, **PLAIN, **placed, **spec})
