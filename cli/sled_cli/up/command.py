"""The command `sled up`. Wires reading, planning, fetching and running; decides nothing itself."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import click

from sled_cli.up.documents import Reading, read
from sled_cli.up.facts import local_facts
from sled_cli.up.fetch import fetch_models
from sled_cli.up.fleet import Fleet
from sled_cli.up.fleet_plan import FleetPlan
from sled_cli.up.logs import ConsoleLog, OnLine
from sled_cli.up.plan import candidate_ports, plan_fleet
from sled_cli.up.preflight import check_configs
from sled_cli.up.probe import HttpProbe
from sled_cli.up.process import LocalLauncher, ProcessSpec
from sled_cli.up.specs import fleet_state, process_specs
from sled_cli.up.state import StateFolder

DEFAULT_STATE_DIR = Path(".sled")


@click.command()
@click.option(
    "files",
    "-f",
    "--file",
    "--filename",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="File or folder with SLEDServer and EdgeDrafter documents; may be given several times.",
)
@click.option("--check", is_flag=True, help="Only check the documents and show what would run.")
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_STATE_DIR,
    show_default=True,
    help="Folder for configurations and the state file that `sled top` reads.",
)
@click.option(
    "--cache-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Model cache; the default is that of `sled models`.",
)
def up(files: tuple[Path, ...], check: bool, state_dir: Path, cache_dir: Path | None) -> None:
    """Run SLEDServer and EdgeDrafter documents as processes of this machine.

    The same documents run on a cluster. Here each replica of a SLEDServer and each device of an
    EdgeDrafter is a process on loopback. Ctrl-C stops them all: devices first, then the verifiers.

    \b
    Annotations that matter here only:
      local.sled.dev/port     SLEDServer, EdgeDrafter: first port to listen on
      local.sled.dev/devices  EdgeDrafter: how many devices ("2"), or their classes ("pi5,x86")
    """
    plan = plan_files(files)
    if check:
        for line in describe(plan):
            click.echo(line)
        return
    folder = StateFolder(state_dir)
    with folder.owned():
        paths = fetch_models(plan.models(), cache_dir)
        specs = process_specs(plan, paths, folder)
        asyncio.run(_serve(plan, specs, folder, ConsoleLog(specs)))


def plan_files(files: tuple[Path, ...]) -> FleetPlan:
    """Read documents and plan what to run here; warnings go to stderr.

    Raises:
        BadInput: see `read`, `plan_fleet` and `check_configs`.
    """
    reading: Reading = read(files)
    for warning in reading.warnings:
        click.secho(f"warning: {warning}", fg="yellow", err=True)
    plan = plan_fleet(reading, local_facts(candidate_ports(reading)))
    check_configs(plan)
    return plan


def describe(plan: FleetPlan) -> list[str]:
    """A line for each process."""
    lines = [
        f"verifier {v.name}: {v.spec.model.name} ({v.spec.engine.kind}), gRPC {v.address}, "
        f"metrics {v.metrics_url}"
        for v in plan.verifiers
    ]
    lines += [
        f"device {d.name}: {d.draft_name} ({d.draft.kind}), class {d.device_class}, "
        f"API {d.url}, verifier {', '.join(d.verifiers)}"
        for d in plan.devices
    ]
    return lines


async def _serve(
    plan: FleetPlan, specs: tuple[ProcessSpec, ...], folder: StateFolder, on_line: OnLine
) -> None:
    stop = asyncio.Event()
    probe = HttpProbe()

    def publish() -> None:
        folder.write_state(fleet_state(plan, fleet.keepers, fleet.ready, folder))

    fleet = Fleet(specs, LocalLauncher(), probe, on_line=on_line, on_change=publish)
    stop_on_signals(stop, fleet.hurry)
    try:
        async with fleet:
            await _start(fleet, stop)
            if not stop.is_set():
                click.secho(ready_text(plan), fg="green", err=True)
                await fleet.until(_wait(stop))
            click.echo("stopping; a second Ctrl-C stops at once", err=True)
    finally:
        await probe.close()


async def _start(fleet: Fleet, stop: asyncio.Event) -> None:
    """Start the fleet, unless a signal comes first."""
    starting = asyncio.create_task(fleet.start())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if starting.done():
        starting.result()
    else:
        starting.cancel()
        await asyncio.wait({starting})


async def _wait(stop: asyncio.Event) -> None:
    await stop.wait()


def stop_on_signals(stop: asyncio.Event, hurry: Callable[[], None]) -> None:
    """The first SIGINT, SIGTERM or SIGHUP asks to stop, the second does not wait any longer."""

    def on_signal() -> None:
        if stop.is_set():
            hurry()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal)


def ready_text(plan: FleetPlan) -> str:
    """Where the devices' APIs are."""
    urls = ", ".join(f"{device.name} {device.url}/v1" for device in plan.devices)
    return f"ready: {urls or 'no devices'}"
