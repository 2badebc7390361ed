"""The rollout section of an EdgeDrafter. Holds the shape and its rules; moving nodes from wave to
wave is `sled_operator.rollout`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from sled_operator.spec.base import DnsName, Rule, Spec, unique
from sled_operator.spec.shared import NodeLabels


class Gates(Spec):
    """What a wave must show before the next one starts."""

    min_ready_percent: Annotated[int, Field(ge=0, le=100)] = 90
    """Nodes of the wave whose drafter is ready, of those that are online."""
    min_acceptance_permille: Annotated[int, Field(ge=0, le=1000)] = 0
    """Draft tokens that the target keeps, of a thousand; 0 = not asked."""
    min_speed_permille: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Draft speed relative to the revision before, in thousandths; 0 = not asked."""
    timeout_seconds: Annotated[int, Field(ge=10, le=604_800)] = 1800
    """A wave that has not passed after this long has failed."""


class Wave(Spec):
    """One step of a rollout."""

    rules = (
        Rule(
            "has(self.percent) != has(self.selector)",
            "a wave has exactly one of percent and selector",
            lambda self: (self.percent is None) != (self.selector is None),
        ),
    )

    name: DnsName
    """Name of the wave."""
    percent: Annotated[int, Field(ge=1, le=100)] | None = None
    """Nodes that have moved when the wave is done, of all."""
    selector: NodeLabels | None = None
    """Labels of the nodes that move in this wave."""
    soak_seconds: Annotated[int, Field(ge=0, le=604_800)] = 60
    """How long the gates must hold before the next wave."""
    gates: Gates = Field(default_factory=Gates)
    """What it must show."""


class MaintenanceWindow(Spec):
    """When waves may start, in UTC."""

    days: Annotated[
        tuple[
            Literal["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"],
            ...,
        ],
        Field(max_length=7),
    ] = ()
    """Days on which the window opens; empty means every day."""
    start: Annotated[
        str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$", max_length=5)
    ]
    """When it opens, `HH:MM`."""
    duration_minutes: Annotated[int, Field(ge=1, le=1440)]
    """How long it stays open."""


def _ascending(percents: list[int]) -> bool:
    return percents == sorted(percents)


class Rollout(Spec):
    """How a change reaches the nodes."""

    rules = (
        Rule(
            "self.waves.filter(w, has(w.percent)).map(w, w.percent).isSorted()",
            "percent of each wave must be at least that of the wave before",
            lambda self: _ascending(
                [wave.percent for wave in self.waves if wave.percent is not None]
            ),
        ),
    )

    waves: Annotated[
        tuple[Wave, ...],
        Field(
            max_length=16,
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
            },
        ),
        unique("name"),
    ] = ()
    """Waves in order; nodes in none of them move last. Empty moves all nodes at once."""
    maintenance_window: MaintenanceWindow | None = None
    """When waves may start; omitted means always. A window that closes never stops a wave that
    runs."""
    on_failure: Literal["Rollback", "Halt"] = "Rollback"
    """Rollback moves the nodes back to the revision before, Halt leaves them for a person to
    judge."""
    progress: Literal["Automatic", "Paused"] = "Automatic"
    """Paused starts no further wave until it is Automatic again."""
