"""Two looks at a fleet become a table: rates are over the time between them. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table

from sled_cli.top.targets import Targets
from sled_cli.watch.device import DeviceCounters
from sled_cli.watch.rows import NOTHING, device_figures, figure, milliseconds
from sled_cli.watch.verifier import VerifierStats


@dataclass(frozen=True, slots=True)
class Look:
    """What everybody said at one moment; None = no answer."""

    seconds: float
    verifiers: Mapping[str, VerifierStats | None]
    devices: Mapping[str, DeviceCounters | None]


def fleet_view(targets: Targets, before: Look, now: Look) -> RenderableType:
    """The tables of one moment."""
    return Group(_verifiers(targets, before, now), "", _devices(targets, before, now))


def _verifiers(targets: Targets, before: Look, now: Look) -> Table:
    table = _table("Verifier", "Address", "PID", "State")
    for column in ("Devices", "Open", "Queue", "Tokens\n/step", "Step", "Waits", "Tokens\n/s"):
        table.add_column(column, justify="right", vertical="bottom")
    elapsed = now.seconds - before.seconds
    for target in targets.verifiers:
        who = (target.name, target.address, _pid(target.pid))
        stats = now.verifiers.get(target.name)
        if stats is None:
            table.add_row(*who, "[red]no answer[/red]", *[NOTHING] * 7)
            continue
        earlier = before.verifiers.get(target.name)
        table.add_row(
            *who,
            "[yellow]draining[/yellow]" if stats.draining else "[green]serving[/green]",
            str(stats.devices),
            str(stats.sequences),
            f"{stats.queue_depth}/{stats.queue_capacity}",
            str(stats.step_tokens),
            milliseconds(stats.step_seconds_p50),
            milliseconds(stats.queue_seconds_p95),
            figure(_rate(stats.output_tokens, _output(earlier), elapsed)),
        )
    return table


def _devices(targets: Targets, before: Look, now: Look) -> Table:
    table = _table("Device", "Drafter", "API", "PID", "State")
    for column in ("Tokens\n/s", "Drafts\nkept", "Tokens\n/pass", "Link B\n/token"):
        table.add_column(column, justify="right", vertical="bottom")
    elapsed = now.seconds - before.seconds
    for target in targets.devices:
        who = (target.name, target.draft, target.url.removeprefix("http://"), _pid(target.pid))
        counters = now.devices.get(target.name)
        if counters is None:
            table.add_row(*who, "[red]no answer[/red]", *[NOTHING] * 4)
            continue
        earlier = before.devices.get(target.name)
        rate = _rate(counters.output_tokens, _output(earlier), elapsed)
        table.add_row(*who, _state(counters), *device_figures(counters, rate))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True, vertical="bottom")
    return table


def _pid(pid: int | None) -> str:
    return NOTHING if pid is None else str(pid)


def _state(counters: DeviceCounters) -> str:
    if not counters.connected:
        return "[red]no verifier[/red]"
    return f"[green]{counters.running} running[/green]" if counters.running else "idle"


def _output(said: VerifierStats | DeviceCounters | None) -> int | None:
    return None if said is None else said.output_tokens


def _rate(now: int, before: int | None, seconds: float) -> float | None:
    """None for the first look and after a restart."""
    if before is None or seconds <= 0 or now < before:
        return None
    return (now - before) / seconds
