"""A look costs what the EdgeDrafter's own nodes cost, and an event wakes only whom it concerns."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sled_operator.cluster.fake import FakeCluster
from sled_operator.names import ahead_label, node_label
from sled_operator.world import WorkKey, World

SITES, PER_SITE = 20, 50


def drafter(site: int) -> dict[str, Any]:
    return {
        "apiVersion": "sled.dev/v1alpha1",
        "kind": "EdgeDrafter",
        "metadata": {"name": f"fleet-{site}", "namespace": "default", "uid": f"u{site}"},
        "spec": {
            "server": {"name": "target"},
            "nodeSelector": {"site": f"s{site}"},
            "drafts": [{"name": "lookup", "kind": "NGram"}],
        },
    }


def node(name: str, **labels: str) -> dict[str, Any]:
    ready = [{"type": "Ready", "status": "True"}]
    return {"metadata": {"name": name, "labels": labels}, "status": {"conditions": ready}}


class Fleet:
    def __init__(self) -> None:
        self.looks: Counter[WorkKey] = Counter()
        self.later: Counter[WorkKey] = Counter()
        self.world = World(FakeCluster(), "", self._count(self.looks), self._count(self.later))
        for site in range(SITES):
            self.world.learn(drafter(site))
        for index in range(SITES * PER_SITE):
            self.world.nodes.put(node(f"n{index}", site=f"s{index % SITES}"))
        self.looks.clear()

    def _count(self, counter: Counter[WorkKey]) -> Any:
        def count(key: WorkKey) -> None:
            counter[key] += 1

        return count

    def nodes_of(self, site: int) -> list[str]:
        return sorted(each.facts.name for each in self.world.nodes_of(("default", f"fleet-{site}")))


def test_a_look_sees_its_own_nodes_only() -> None:
    fleet = Fleet()
    for site in range(SITES):
        assert len(fleet.nodes_of(site)) == PER_SITE


def test_a_node_that_joins_wakes_one_fleet_once() -> None:
    fleet = Fleet()
    fleet.world.nodes.put(node("late", site="s3"))
    assert fleet.looks == {("EdgeDrafter", "default", "fleet-3"): 1}
    assert "late" in fleet.nodes_of(3)


def test_a_heartbeat_wakes_nobody() -> None:
    fleet = Fleet()
    beat = node("n3", site="s3")
    beat["status"]["conditions"][0]["lastHeartbeatTime"] = "2026-01-01T00:00:00Z"
    fleet.world.nodes.put(beat)
    assert not fleet.looks


def test_a_node_that_moves_wakes_both_fleets() -> None:
    fleet = Fleet()
    fleet.world.nodes.put(node("n3", site="s4"))
    assert fleet.looks == {
        ("EdgeDrafter", "default", "fleet-3"): 1,
        ("EdgeDrafter", "default", "fleet-4"): 1,
    }
    assert "n3" not in fleet.nodes_of(3)
    assert "n3" in fleet.nodes_of(4)


def test_a_node_with_a_label_of_ours_stays_until_it_is_gone() -> None:
    fleet = Fleet()
    label = node_label("default", "fleet-3")
    fleet.world.nodes.put(node("n3", site="elsewhere", **{label: "lookup.mini-pc.r1"}))
    assert "n3" in fleet.nodes_of(3)
    fleet.world.nodes.put(node("n3", site="elsewhere"))
    assert "n3" not in fleet.nodes_of(3)
    ahead = ahead_label("default", "fleet-3")
    fleet.world.nodes.put(node("n3", site="elsewhere", **{ahead: "lookup.mini-pc.r2"}))
    assert "n3" in fleet.nodes_of(3)


def test_a_new_selector_is_followed_and_a_deleted_fleet_has_none() -> None:
    fleet = Fleet()
    changed = drafter(3)
    changed["spec"]["nodeSelector"] = {"site": "s4"}
    fleet.world.learn(changed)
    assert fleet.nodes_of(3) == fleet.nodes_of(4)
    fleet.world.forget("EdgeDrafter", ("default", "fleet-3"))
    assert fleet.nodes_of(3) == []


def test_pods_of_drafters_can_wait_and_those_of_verifiers_cannot() -> None:
    fleet = Fleet()
    for name, labels in (("d", {"sled.dev/drafter": "fleet-3"}), ("v", {"sled.dev/server": "t"})):
        meta = {"name": name, "namespace": "default", "labels": labels}
        fleet.world.pods.put({"metadata": meta, "spec": {}, "status": {}})
    assert fleet.later == {("EdgeDrafter", "default", "fleet-3"): 1}
    assert fleet.looks == {("SLEDServer", "default", "t"): 1}
