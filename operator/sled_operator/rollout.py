"""How a change reaches the nodes: waves, gates, soak, maintenance window, halt and rollback. Pure.

The state is small and lives in the resource's status; everything else is read from the nodes each
time, so an operator that is killed anywhere goes on where the nodes are. Waves are cumulative: a
node belongs to the first wave whose selector it matches, or whose percentage covers its place in a
fixed pseudo-random order. A node that is offline is skipped and counts for no gate; it follows when
it returns. What no wave covers moves last.
"""

from __future__ import annotations

import enum
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from sled_operator.spec.rollout import Gates, MaintenanceWindow, Rollout, Wave

REST = "rest"
"""Name of the wave of nodes that no wave covers."""


class State(enum.StrEnum):
    """Where a rollout stands."""

    COMPLETE = "Complete"
    """All nodes that are online run the revision of the spec."""
    MOVING = "Moving"
    """A wave is at work: its nodes are moved, or its gates do not hold yet."""
    SOAKING = "Soaking"
    """The gates of a wave hold, and must do so a while longer."""
    WAITING = "Waiting"
    """The next wave waits for the maintenance window."""
    PAUSED = "Paused"
    """The next wave waits for rollout.progress to be Automatic."""
    HALTED = "Halted"
    """A wave failed, and the nodes stay where they are until the spec changes."""
    ROLLED_BACK = "RolledBack"
    """A wave failed, and the nodes run the revision before until the spec changes."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The part of the status that a rollout goes on from; times in seconds since the epoch."""

    state: State
    stable: str
    """Revision to go back to."""
    target: str
    """Revision to go to."""
    wave_index: int = 0
    wave_started: float | None = None
    gates_held_since: float | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """One node that has been given a draft model."""

    name: str
    labels: Mapping[str, str]
    online: bool
    revision: str
    """Revision that its label names now; empty when it has none."""
    ready: bool
    """Its drafter of that revision is ready."""


@dataclass(frozen=True, slots=True)
class Quality:
    """What the fleet reports of a revision; None = not known."""

    acceptance_permille: int | None = None
    speed_permille: int | None = None
    """Draft speed relative to the revision before."""


@dataclass(frozen=True, slots=True)
class Step:
    """What to do now."""

    progress: Progress
    revisions: Mapping[str, str]
    """Revision that each online node shall have."""
    look_again_seconds: float | None = None


def first(revision: str) -> Progress:
    """The state of a resource that has never rolled anything out: nodes take it at once."""
    return Progress(State.COMPLETE, revision, revision)


def step(
    spec: Rollout,
    progress: Progress,
    wanted: str,
    members: Sequence[Member],
    quality: Quality,
    now: datetime,
) -> Step:
    """One look at a rollout.

    Args:
        spec: waves, window, and what to do on failure.
        progress: of the look before; `first(wanted)` for a new resource.
        wanted: revision of the current spec.
        members: the assigned nodes.
        quality: of the target revision.
        now: an aware time.
    """
    clock = now.timestamp()
    if wanted == progress.stable:
        if progress.target != progress.stable or progress.state is not State.COMPLETE:
            progress = first(wanted)
        return Step(progress, _all(members, wanted))
    if wanted != progress.target:
        progress = Progress(State.MOVING, progress.stable, wanted)
    if progress.state is State.ROLLED_BACK:
        return Step(progress, _all(members, progress.stable))
    waves = [*spec.waves, Wave(name=REST, percent=100)]
    if progress.state is State.HALTED:
        return Step(progress, _upto(members, waves, progress, progress.wave_index))
    return _advance(spec, waves, progress, members, quality, now, clock)


def _advance(
    spec: Rollout,
    waves: Sequence[Wave],
    progress: Progress,
    members: Sequence[Member],
    quality: Quality,
    now: datetime,
    clock: float,
) -> Step:
    """Go on with the wave at work, or with the next ones as far as they have nothing to do."""
    for _ in range(len(waves) + 1):
        if progress.wave_index >= len(waves):
            return Step(first(progress.target), _all(members, progress.target))
        wave = waves[progress.wave_index]
        if progress.wave_started is None:
            held = _may_not_start(spec, now)
            if held is not None:
                state, message, again = held
                waiting = replace(progress, state=state, message=message)
                return Step(
                    waiting, _upto(members, waves, progress, progress.wave_index - 1), again
                )
            progress = replace(progress, state=State.MOVING, wave_started=clock)
        mine = _in_wave(members, waves, progress.wave_index)
        verdict = _judge(spec, wave, mine, progress, quality, clock)
        if verdict is None:
            progress = Progress(
                State.MOVING, progress.stable, progress.target, progress.wave_index + 1
            )
            continue
        if verdict.progress.state is State.ROLLED_BACK:
            return replace(verdict, revisions=_all(members, progress.stable))
        revisions = _upto(members, waves, progress, progress.wave_index)
        return replace(verdict, revisions=revisions)
    return Step(progress, _upto(members, waves, progress, progress.wave_index))


def _judge(
    spec: Rollout,
    wave: Wave,
    mine: Sequence[Member],
    progress: Progress,
    quality: Quality,
    clock: float,
) -> Step | None:
    """None when the wave is done; else the progress it is in."""
    last = wave.name == REST
    soak = 0 if last else wave.soak_seconds
    missing = _unmet(wave.gates, mine, progress.target, quality)
    started = progress.wave_started or clock
    if missing is None:
        since = progress.gates_held_since if progress.gates_held_since is not None else clock
        left = since + soak - clock
        if left <= 0:
            return None
        message = f"wave {wave.name} soaks for {soak} s"
        kept = replace(progress, state=State.SOAKING, gates_held_since=since, message=message)
        return Step(kept, {}, left)
    left = started + wave.gates.timeout_seconds - clock
    if left <= 0:
        failed = State.ROLLED_BACK if spec.on_failure == "Rollback" else State.HALTED
        message = f"wave {wave.name} failed: {missing}"
        return Step(replace(progress, state=failed, gates_held_since=None, message=message), {})
    message = f"wave {wave.name}: {missing}"
    kept = replace(progress, state=State.MOVING, gates_held_since=None, message=message)
    return Step(kept, {}, left)


def _unmet(gates: Gates, mine: Sequence[Member], target: str, quality: Quality) -> str | None:
    """The first gate that does not hold, in words."""
    online = [member for member in mine if member.online]
    ready = sum(member.ready and member.revision == target for member in online)
    if ready * 100 < gates.min_ready_percent * len(online):
        return f"{ready} of {len(online)} online nodes are ready, {gates.min_ready_percent} % asked"
    for name, asked, seen in (
        ("acceptance", gates.min_acceptance_permille, quality.acceptance_permille),
        ("relative speed", gates.min_speed_permille, quality.speed_permille),
    ):
        if asked and online and (seen is None or seen < asked):
            known = "not known yet" if seen is None else f"{seen} permille"
            return f"{name} is {known}, {asked} permille asked"
    return None


def _may_not_start(spec: Rollout, now: datetime) -> tuple[State, str, float | None] | None:
    if spec.progress == "Paused":
        return State.PAUSED, "rollout.progress is Paused", None
    window = spec.maintenance_window
    if window is None:
        return None
    wait = seconds_to_window(window, now)
    if not wait:
        return None
    return State.WAITING, f"the maintenance window opens at {window.start} UTC", wait


def seconds_to_window(window: MaintenanceWindow, now: datetime) -> float:
    """Seconds until the window opens; 0 while it is open."""
    utc = now.astimezone(UTC)
    hour, minute = (int(part) for part in window.start.split(":"))
    for day in range(-1, 9):
        opens = (utc + timedelta(days=day)).replace(
            hour=hour, minute=minute, second=0, microsecond=0
        )
        if window.days and _DAYS[opens.weekday()] not in window.days:
            continue
        if opens + timedelta(minutes=window.duration_minutes) > utc:
            return max(0.0, (opens - utc).total_seconds())
    return 0.0


_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def place(name: str) -> int:
    """A node's place in the fixed pseudo-random order of percent waves."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def waves_of(members: Sequence[Member], waves: Sequence[Wave]) -> dict[str, int]:
    """Index of the wave of each node; a percent wave has at least one node when there is one."""
    ranks = {
        member.name: rank
        for rank, member in enumerate(sorted(members, key=lambda each: place(each.name)))
    }
    return {
        member.name: _wave_of(member, ranks[member.name], len(members), waves) for member in members
    }


def _wave_of(member: Member, rank: int, count: int, waves: Sequence[Wave]) -> int:
    for index, wave in enumerate(waves):
        if wave.selector is not None:
            if all(member.labels.get(key) == value for key, value in wave.selector.items()):
                return index
        elif wave.percent is not None and rank < math.ceil(count * wave.percent / 100):
            return index
    return len(waves) - 1


def _in_wave(members: Sequence[Member], waves: Sequence[Wave], index: int) -> list[Member]:
    of = waves_of(members, waves)
    return [member for member in members if of[member.name] == index]


def _upto(
    members: Sequence[Member], waves: Sequence[Wave], progress: Progress, index: int
) -> dict[str, str]:
    """Nodes of waves up to `index` get the target, as does a node that has it already: a fleet that
    grows shifts places, and nobody moves back for that."""
    of = waves_of(members, waves)
    return _choose(
        members,
        lambda member: (
            progress.target
            if of[member.name] <= index or member.revision == progress.target
            else progress.stable
        ),
    )


def _all(members: Sequence[Member], revision: str) -> dict[str, str]:
    return _choose(members, lambda _: revision)


def _choose(members: Sequence[Member], revision: Callable[[Member], str]) -> dict[str, str]:
    """Only online nodes are told anything: an offline one keeps serving what it has."""
    return {member.name: revision(member) for member in members if member.online}
