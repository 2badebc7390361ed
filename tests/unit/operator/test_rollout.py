from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sled_operator.rollout import (
    Member,
    Progress,
    Quality,
    State,
    Step,
    first,
    seconds_to_window,
    step,
)
from sled_operator.spec.rollout import MaintenanceWindow, Rollout

NOW = datetime(2030, 1, 7, 12, 0, tzinfo=UTC)  # a Monday
GOOD = Quality(900, 1000)


def waves(*items: dict[str, Any], **fields: Any) -> Rollout:
    return Rollout.model_validate({"waves": items} | fields)


def fleet(count: int, revision: str = "old", ready: bool = True) -> list[Member]:
    return [
        Member(f"n{i:03d}", {"zone": "a" if i % 2 else "b"}, True, revision, ready)
        for i in range(count)
    ]


class Fleet:
    """Plays nodes that take what they are told and are ready at once, unless the revision is
    bad."""

    def __init__(self, spec: Rollout, count: int, bad: str = "") -> None:
        self.spec, self.bad, self.now = spec, bad, NOW
        self.members = fleet(count)
        self.progress = first("old")
        self.quality = GOOD

    def look(self, wanted: str, seconds: float = 0) -> Step:
        self.now += timedelta(seconds=seconds)
        result = step(self.spec, self.progress, wanted, self.members, self.quality, self.now)
        self.progress = result.progress
        self.members = [
            replace(m, revision=r, ready=r != self.bad)
            if (r := result.revisions.get(m.name)) is not None and r != m.revision
            else m
            for m in self.members
        ]
        return result

    def on(self, revision: str) -> int:
        return sum(member.revision == revision for member in self.members)


def test_a_new_resource_takes_its_first_revision_at_once() -> None:
    result = step(waves(), first("r1"), "r1", fleet(3, "", False), GOOD, NOW)
    assert set(result.revisions.values()) == {"r1"}
    assert result.progress.state is State.COMPLETE


def test_without_waves_all_move_at_once_and_it_completes_when_ready() -> None:
    world = Fleet(waves(), 10)
    world.look("new")
    assert world.on("new") == 10
    assert world.look("new").progress == first("new")


def test_percent_waves_move_that_many_then_soak() -> None:
    spec = waves(
        {"name": "a", "percent": 10, "soakSeconds": 30},
        {"name": "b", "percent": 50, "soakSeconds": 30},
    )
    world = Fleet(spec, 40)
    world.look("new")
    assert world.on("new") == 4
    soaking = world.look("new", 1)
    assert soaking.progress.state is State.SOAKING
    assert soaking.look_again_seconds == pytest.approx(30)
    world.look("new", 29)
    assert world.on("new") == 4
    world.look("new", 1)
    assert world.on("new") == 20
    world.look("new", 1)
    world.look("new", 31)
    assert world.on("new") == 40
    assert world.look("new", 1).progress == first("new")


def test_a_percent_wave_has_at_least_one_node() -> None:
    world = Fleet(waves({"name": "a", "percent": 1}), 5)
    world.look("new")
    assert world.on("new") == 1


def test_a_selector_wave_moves_its_nodes() -> None:
    world = Fleet(waves({"name": "a", "selector": {"zone": "a"}}), 10)
    world.look("new")
    moved = {m.name for m in world.members if m.revision == "new"}
    assert moved == {f"n{i:03d}" for i in range(1, 10, 2)}


def test_offline_nodes_block_nobody_and_follow_later() -> None:
    world = Fleet(waves({"name": "a", "percent": 50, "soakSeconds": 0}), 10)
    away = world.members[3].name
    world.members[3] = replace(world.members[3], online=False, ready=False)
    for _ in range(4):
        world.look("new", 1)
    assert world.progress == first("new")
    assert world.on("new") == 9
    world.members[3] = replace(world.members[3], online=True)
    assert world.look("new").revisions[away] == "new"


def test_a_bad_revision_is_rolled_back_and_stays_so() -> None:
    gates = {"timeoutSeconds": 60}
    spec = waves({"name": "a", "percent": 20, "gates": gates})
    world = Fleet(spec, 10, bad="new")
    world.look("new")
    assert world.look("new", 59).progress.state is State.MOVING
    failed = world.look("new", 2)
    assert failed.progress.state is State.ROLLED_BACK
    assert "0 of 2 online nodes are ready" in failed.progress.message
    assert world.on("old") == 10
    assert world.look("new", 1000).progress.state is State.ROLLED_BACK
    assert world.on("new") == 0


def test_a_fix_starts_afresh_and_going_back_ends_it() -> None:
    spec = waves({"name": "a", "percent": 20, "gates": {"timeoutSeconds": 60}})
    world = Fleet(spec, 10, bad="new")
    world.look("new")
    world.look("new", 61)
    world.look("fixed")
    assert world.on("fixed") == 2
    world.look("old")
    assert world.on("old") == 10
    assert world.progress == first("old")


def test_halt_leaves_the_nodes_where_they_are() -> None:
    gates = {"timeoutSeconds": 60}
    spec = waves({"name": "a", "percent": 20, "gates": gates}, onFailure="Halt")
    world = Fleet(spec, 10, bad="new")
    world.look("new")
    world.look("new", 61)
    assert world.look("new", 1000).progress.state is State.HALTED
    assert (world.on("new"), world.on("old")) == (2, 8)


@pytest.mark.parametrize(
    ("gates", "quality", "passes"),
    [
        ({"minAcceptancePermille": 500}, Quality(499, None), False),
        ({"minAcceptancePermille": 500}, Quality(500, None), True),
        ({"minAcceptancePermille": 500}, Quality(None, None), False),
        ({"minSpeedPermille": 800}, Quality(None, 799), False),
        ({"minSpeedPermille": 800}, Quality(None, 800), True),
        ({"minReadyPercent": 0}, Quality(), True),
    ],
)
def test_gates(gates: dict[str, int], quality: Quality, passes: bool) -> None:
    spec = waves({"name": "a", "percent": 50, "soakSeconds": 0, "gates": gates})
    world = Fleet(spec, 10)
    world.quality = quality
    for _ in range(3):
        world.look("new", 1)
    assert (world.on("new") == 10) is passes


def test_the_soak_starts_again_when_a_gate_breaks() -> None:
    world = Fleet(waves({"name": "a", "percent": 50, "soakSeconds": 30}), 4)
    world.look("new")
    world.look("new", 1)
    ill = [replace(m, ready=False) if m.revision == "new" else m for m in world.members]
    world.members = ill
    assert world.look("new", 20).progress.gates_held_since is None
    world.members = [replace(m, ready=True) for m in world.members]
    world.look("new", 5)
    world.look("new", 20)
    assert world.on("new") == 2


def test_paused_starts_no_wave() -> None:
    world = Fleet(waves({"name": "a", "percent": 50}, progress="Paused"), 4)
    assert world.look("new").progress.state is State.PAUSED
    assert world.on("new") == 0


def test_a_wave_waits_for_the_maintenance_window() -> None:
    window = {"start": "22:00", "durationMinutes": 60}
    world = Fleet(waves({"name": "a", "percent": 50}, maintenanceWindow=window), 4)
    waiting = world.look("new")
    assert waiting.progress.state is State.WAITING
    assert waiting.look_again_seconds == 10 * 3600
    assert world.on("new") == 0
    world.look("new", 10 * 3600)
    assert world.on("new") == 2


@pytest.mark.parametrize(
    ("days", "start", "minutes", "seconds"),
    [
        ((), "12:00", 30, 0),
        ((), "11:00", 61, 0),
        ((), "11:00", 60, 23 * 3600),
        (("Monday",), "11:00", 30, 7 * 86400 - 3600),
        (("Sunday",), "23:00", 840, 0),
        (("Tuesday",), "00:00", 30, 12 * 3600),
    ],
)
def test_windows(days: tuple[str, ...], start: str, minutes: int, seconds: float) -> None:
    window = MaintenanceWindow.model_validate(
        {"days": days, "start": start, "durationMinutes": minutes}
    )
    assert seconds_to_window(window, NOW) == seconds


def test_a_growing_fleet_moves_nobody_back() -> None:
    world = Fleet(waves({"name": "a", "percent": 30, "soakSeconds": 600}), 10)
    world.look("new")
    before = {m.name for m in world.members if m.revision == "new"}
    world.members += [Member(f"x{i}", {}, True, "", False) for i in range(7)]
    world.look("new", 1)
    assert before <= {m.name for m in world.members if m.revision == "new"}


def test_every_look_can_be_the_first_of_a_new_process() -> None:
    spec = waves({"name": "a", "percent": 50, "soakSeconds": 10})
    world = Fleet(spec, 6)
    for _ in range(30):
        world.look("new", 1)
        saved = world.progress
        world.progress = Progress(
            saved.state,
            saved.stable,
            saved.target,
            saved.wave_index,
            saved.wave_started,
            saved.gates_held_since,
            saved.message,
        )
    assert world.progress == first("new")
