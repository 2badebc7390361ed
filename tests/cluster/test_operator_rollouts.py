"""Rollouts in a real cluster that follow what the fleet measures and how far its models are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sled_protocol.v1 import verifier_pb2 as pb
from sled_testkit import played_cluster
from sled_testkit.cluster import ControlPlane
from sled_testkit.cluster_api import Object
from sled_testkit.cluster_operator import OperatorProcess
from sled_testkit.played_cluster import server
from sled_testkit.sled_resources import (
    APPS,
    CORE,
    SLED,
    apply,
    condition,
    ready,
    rollout,
    wait,
    wait_for,
)
from sled_testkit.stats_stub import StubVerifiers

FLEET_LABEL = "drafter.sled.dev/default.fleet"
EDGES = 6


@pytest.fixture(scope="module")
def plane(own_plane: ControlPlane) -> ControlPlane:
    return played_cluster.prepare(own_plane, EDGES)


@pytest.fixture(scope="module", autouse=True)
def operator(plane: ControlPlane) -> Iterator[OperatorProcess]:
    yield from played_cluster.running_operator(plane)


@pytest.fixture(scope="module")
def verifiers(plane: ControlPlane) -> Iterator[StubVerifiers]:
    yield from played_cluster.listening_verifiers()


@pytest.fixture(scope="module")
def fleet(plane: ControlPlane, verifiers: StubVerifiers) -> ControlPlane:
    """Six devices that draft for a server whose stats this process gives."""
    verifiers.answer = pb.Stats
    server(plane, "measured", "played")
    drafters(plane, sequences=1)
    wait_for(plane, "EdgeDrafter", "fleet", ready)
    return plane


def drafters(plane: ControlPlane, **spec: Any) -> None:
    base: Object = {
        "server": {"name": "measured"},
        "nodeSelector": {"sled.dev/device": "true"},
        "drafts": [{"name": "lookup", "kind": "NGram"}],
    }
    apply(plane, "EdgeDrafter", "fleet", {**base, **spec})


def on(plane: ControlPlane, revision: str) -> set[str]:
    """Names of the nodes that have a revision."""
    return {
        node["metadata"]["name"]
        for node in plane.api.items("/api/v1/nodes")
        if node["metadata"]["labels"].get(FLEET_LABEL, "").endswith(f".{revision}")
    }


def state(wanted: str) -> Callable[[Object | None], bool]:
    """In that state, and about the present spec."""

    def holds(found: Object | None) -> bool:
        metadata = (found or {}).get("metadata", {})
        seen = (found or {}).get("status", {}).get("observedGeneration")
        return seen == metadata.get("generation") and rollout(found).get("state") == wanted

    return holds


def counted(revision: str, accepted: int, micros: int) -> pb.DraftModelStats:
    """What a thousand draft tokens of a revision came to."""
    return pb.DraftModelStats(
        draft_model="lookup",
        device_class="pi5",
        revision=revision,
        rounds_total=250,
        draft_tokens_total=1000,
        accepted_tokens_total=accepted,
        draft_micros_total=micros,
    )


@pytest.mark.parametrize(
    ("gate", "accepted", "micros", "said"),
    [
        (
            {"minAcceptancePermille": 500},
            120,
            1000,
            "acceptance is 120 permille, 500 permille asked",
        ),
        (
            {"minSpeedPermille": 800},
            900,
            4000,
            "relative speed is 250 permille, 800 permille asked",
        ),
    ],
)
def test_a_revision_that_drafts_worse_is_rolled_back(
    fleet: ControlPlane,
    verifiers: StubVerifiers,
    gate: Object,
    accepted: int,
    micros: int,
    said: str,
) -> None:
    """Same draft model, ready everywhere: only what is measured of the new revision tells."""
    stable = rollout(wait_for(fleet, "EdgeDrafter", "fleet", state("Complete")))["stableRevision"]
    canary = {"name": "north", "selector": {"site": "north"}, "soakSeconds": 2}
    waves = [{**canary, "gates": {**gate, "timeoutSeconds": 12}}]
    drafters(fleet, sequences=micros // 100, rollout={"waves": waves})
    moving = wait_for(
        fleet, "EdgeDrafter", "fleet", lambda each: rollout(each).get("targetRevision") != stable
    )
    target = rollout(moving)["targetRevision"]
    new = counted(target, accepted, micros)
    verifiers.answer = lambda: pb.Stats(draft_models=[counted(stable, 800, 1000), new])
    fleet.api.wait_all("/api/v1/nodes", lambda _: on(fleet, target) == {"pi-0", "pi-1"})
    found = wait_for(fleet, "EdgeDrafter", "fleet", state("RolledBack"))
    assert said in rollout(found)["message"]
    assert condition(found, "Degraded")["reason"] == "RolloutRolledBack"
    fleet.api.wait_all("/api/v1/nodes", lambda _: len(on(fleet, stable)) == EDGES)
    drafters(fleet, sequences=1)
    wait_for(fleet, "EdgeDrafter", "fleet", ready)


def test_a_revision_that_drafts_as_well_goes_everywhere(
    fleet: ControlPlane, verifiers: StubVerifiers
) -> None:
    gates = {"minAcceptancePermille": 500, "minSpeedPermille": 800}
    waves = [{"name": "north", "selector": {"site": "north"}, "soakSeconds": 1, "gates": gates}]
    drafters(fleet, sequences=3, rollout={"waves": waves})
    moving = wait_for(fleet, "EdgeDrafter", "fleet", state("Moving"))
    stable, target = rollout(moving)["stableRevision"], rollout(moving)["targetRevision"]
    both = [counted(stable, 800, 1000), counted(target, 790, 1010)]
    verifiers.answer = lambda: pb.Stats(draft_models=both)
    wait_for(fleet, "EdgeDrafter", "fleet", state("Complete"))
    assert len(on(fleet, target)) == EDGES


def test_halt_leaves_the_failed_wave_for_a_person_to_judge(fleet: ControlPlane) -> None:
    gates = {"timeoutSeconds": 10}
    waves = [{"name": "canary", "percent": 20, "soakSeconds": 0, "gates": gates}]
    broken = "registry.example.com/broken:1"
    drafters(fleet, sequences=3, image=broken, rollout={"waves": waves, "onFailure": "Halt"})
    found = wait_for(fleet, "EdgeDrafter", "fleet", state("Halted"))
    assert len(on(fleet, rollout(found)["targetRevision"])) == 2
    assert len(on(fleet, rollout(found)["stableRevision"])) == EDGES - 2
    assert condition(found, "Ready")["reason"] == "RolloutHalted"
    drafters(fleet, sequences=3)
    wait_for(fleet, "EdgeDrafter", "fleet", ready)


def test_a_wave_waits_for_its_window_and_for_a_person(fleet: ControlPlane) -> None:
    later = datetime.now(UTC) + timedelta(hours=3)
    window = {"start": f"{later:%H:%M}", "durationMinutes": 30}
    drafters(fleet, sequences=5, rollout={"maintenanceWindow": window})
    found = wait_for(fleet, "EdgeDrafter", "fleet", state("Waiting"))
    assert f"the maintenance window opens at {later:%H:%M} UTC" in rollout(found)["message"]
    assert on(fleet, rollout(found)["targetRevision"]) == set()
    drafters(fleet, sequences=5, rollout={"progress": "Paused"})
    found = wait_for(fleet, "EdgeDrafter", "fleet", state("Paused"))
    assert on(fleet, rollout(found)["targetRevision"]) == set()
    now = {"start": f"{datetime.now(UTC):%H:%M}", "durationMinutes": 30}
    drafters(fleet, sequences=5, rollout={"maintenanceWindow": now})
    found = wait_for(fleet, "EdgeDrafter", "fleet", state("Complete"))
    assert len(on(fleet, rollout(found)["targetRevision"])) == EDGES


def test_what_the_fleet_measures_moves_nodes_to_the_better_draft(
    fleet: ControlPlane, verifiers: StubVerifiers
) -> None:
    """The profile promises more of `a`; the devices find that nothing of it is accepted."""
    drafts = [
        {"name": "a", "kind": "NGram", "profile": {"acceptancePermille": 700}},
        {"name": "b", "kind": "NGram", "profile": {"acceptancePermille": 500}},
    ]
    verifiers.answer = pb.Stats

    def given(draft: str) -> Callable[[Object | None], bool]:
        def holds(found: Object | None) -> bool:
            listed = (found or {}).get("status", {}).get("assignments", ())
            settled = rollout(found).get("state") == "Complete" and ready(found)
            return settled and [(each["draft"], each["nodes"]) for each in listed] == [
                (draft, EDGES)
            ]

        return holds

    drafters(fleet, drafts=drafts)
    before = wait_for(fleet, "EdgeDrafter", "fleet", given("a"))
    bad = pb.DraftModelStats(
        draft_model="a",
        device_class="pi5",
        rounds_total=50_000,
        draft_tokens_total=200_000,
        accepted_tokens_total=2_000,
        draft_micros_total=40_000_000,
    )
    verifiers.answer = lambda: pb.Stats(draft_models=[bad])
    found = wait_for(fleet, "EdgeDrafter", "fleet", given("b"))
    assert rollout(found)["stableRevision"] == rollout(before)["stableRevision"]


def test_a_node_keeps_drafting_until_its_next_model_is_there(
    fleet: ControlPlane, verifiers: StubVerifiers
) -> None:
    verifiers.answer = pb.Stats
    drafters(fleet, sequences=7)
    before = wait_for(
        fleet, "EdgeDrafter", "fleet", lambda each: ready(each) and state("Complete")(each)
    )
    stable = rollout(before)["stableRevision"]
    draft = {"name": "tiny", "source": "s3://models/tiny.gguf", "profile": {"memoryMiB": 100}}
    disk = {"type": "HostPath", "path": "/var/lib/sled"}
    image = "registry.example.com/slow:1"
    drafters(fleet, sequences=7, drafts=[draft], cache=disk, image=image)
    pods = fleet.api.wait_all(
        f"{CORE}/pods",
        lambda found: sum("nodeName" in each["spec"] for each in found.values()) == EDGES,
        labelSelector="sled.dev/ahead=fleet",
    )
    found = wait_for(fleet, "EdgeDrafter", "fleet", state("Moving"))
    target = rollout(found)["targetRevision"]
    assert len(on(fleet, stable)) == EDGES
    by_node = {each["spec"]["nodeName"]: name for name, each in pods.items()}
    said = "s3://models/tiny.gguf: there is no such bucket or object (HTTP 404)"
    _play(fleet, by_node["pi-0"], {"terminated": {"exitCode": 0, **_times()}})
    _play(fleet, by_node["pi-1"], {"terminated": {"exitCode": 1, "message": said, **_times()}})
    fleet.api.wait_all("/api/v1/nodes", lambda _: on(fleet, target) == {"pi-0"})

    def told(found: Object | None) -> bool:
        listed = (found or {}).get("status", {}).get("nodesWithoutModel") or [{}]
        return bool(listed[0].get("message") == said)

    found = wait_for(fleet, "EdgeDrafter", "fleet", told)
    assert found["status"]["nodes"]["ready"] == EDGES - 1
    drafters(fleet, sequences=7)
    wait_for(fleet, "EdgeDrafter", "fleet", ready)
    assert len(on(fleet, stable)) == EDGES
    next_label = FLEET_LABEL.replace("drafter.", "ahead.", 1)

    def cleared(nodes: dict[str, Object]) -> bool:
        return not any(next_label in each["metadata"]["labels"] for each in nodes.values())

    fleet.api.wait_all("/api/v1/nodes", cleared)
    fleet.api.wait_all(f"{APPS}/daemonsets", lambda sets: len(sets) == 1)


def test_nodes_without_their_model_are_listed_with_the_reason(fleet: ControlPlane) -> None:
    """`slow` pods are left alone by kwok, so the test plays their kubelet."""
    draft = {"name": "tiny", "source": "s3://models/tiny.gguf", "profile": {"memoryMiB": 100}}
    drafters(fleet, drafts=[draft], image="registry.example.com/slow:1")

    def waiting(found: Object | None) -> bool:
        return (found or {}).get("status", {}).get("models", {}).get("waiting") == EDGES

    wait_for(fleet, "EdgeDrafter", "fleet", waiting)
    pods = fleet.api.wait_all(
        f"{CORE}/pods",
        lambda found: len(found) == EDGES,
        labelSelector="sled.dev/draft=tiny",
    )
    said = "s3://models/tiny.gguf: there is no such bucket or object (HTTP 404)"
    kubelet = {
        "pi-0": {"terminated": {"exitCode": 1, "message": said, **_times()}},
        "pi-1": {"running": {"startedAt": _times()["startedAt"]}},
        "pi-2": {"terminated": {"exitCode": 0, **_times()}},
    }
    for name, pod in pods.items():
        fetching = kubelet.get(pod["spec"]["nodeName"])
        if fetching is not None:
            _play(fleet, name, fetching)

    def told(found: Object | None) -> bool:
        models = (found or {}).get("status", {}).get("models")
        return bool(models == {"fetched": 1, "fetching": 1, "waiting": EDGES - 3, "failed": 1})

    found = wait_for(fleet, "EdgeDrafter", "fleet", told)
    first = found["status"]["nodesWithoutModel"][0]
    assert first == {"name": "pi-0", "draft": "tiny", "state": "Failed", "message": said}
    assert condition(found, "Degraded")["reason"] == "ModelNotFetched"
    assert said in condition(found, "Ready")["message"]
    fleet.kubectl("delete", "drafter/fleet", "sled/measured")
    wait(fleet, f"{SLED}/edgedrafters", "fleet", lambda each: each is None)


def _times() -> dict[str, str]:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"startedAt": now, "finishedAt": now}


def _play(plane: ControlPlane, pod: str, fetching: Object) -> None:
    container = {
        "name": "fetch-model",
        "image": "slow",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": fetching,
    }
    status = {"status": {"phase": "Pending", "initContainerStatuses": [container]}}
    plane.api.patch(f"{CORE}/pods/{pod}/status", status)
