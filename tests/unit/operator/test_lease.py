from __future__ import annotations

from sled_operator.cluster import kinds
from sled_operator.cluster.base import ClusterError
from sled_operator.cluster.fake import FakeCluster
from sled_operator.lease import LEASE_SECONDS, Lease


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def pair() -> tuple[FakeCluster, Clock, Lease, Lease]:
    cluster, clock = FakeCluster(), Clock()
    return (
        cluster,
        clock,
        Lease(cluster, "sled", "op", "a", clock),
        Lease(cluster, "sled", "op", "b", clock),
    )


async def test_one_of_two_leads() -> None:
    _, clock, a, b = pair()
    assert await a._try()
    assert not await b._try()
    clock.now += LEASE_SECONDS - 1
    assert await a._try()
    assert not await b._try()
    clock.now += 2
    assert not await b._try()


async def test_a_dead_leader_is_followed_after_the_lease_as_seen_from_here() -> None:
    cluster, clock, a, b = pair()
    assert await a._try()
    assert not await b._try()
    clock.now += LEASE_SECONDS + 1
    assert await b._try()
    assert not await a._try()
    lease = cluster.find(kinds.LEASE, "sled", "op")
    assert lease is not None
    assert lease["spec"]["leaseTransitions"] == 1


async def test_a_released_lease_is_free_at_once() -> None:
    _, _, a, b = pair()
    assert await a._try()
    await a.release()
    assert await b._try()
    await a.release()
    assert await b._try()


async def test_two_that_write_at_once_do_not_both_win() -> None:
    cluster, _, a, _ = pair()
    assert await a._try()
    cluster.refuse["leases"] = ClusterError(409, "changed")
    assert not await a._try()
    cluster.refuse["leases"] = ClusterError(0, "away")
    assert not await a._try()
