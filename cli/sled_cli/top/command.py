"""The command `sled top`. Asks and draws; the figures are made elsewhere."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import httpx
from rich.console import Console
from rich.live import Live

from sled_cli.errors import BadInput
from sled_cli.top.targets import Targets, targets_of_options, targets_of_state
from sled_cli.top.view import Look, fleet_view
from sled_cli.watch.device import read_device
from sled_cli.watch.verifier import VerifierWatch

DEVICE_SECONDS = 2.0
LOG_COLUMNS = 140
"""Width of the table where there is no terminal."""


@click.command()
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".sled"),
    show_default=True,
    help="State folder of the `sled up` to watch.",
)
@click.option("--verifier", "verifiers", multiple=True, help="Watch this HOST:PORT instead.")
@click.option("--device", "devices", multiple=True, help="Watch this http://HOST:PORT instead.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Bearer token for the verifiers given by --verifier.",
)
@click.option("--every", default=1.0, show_default=True, help="Seconds between two looks.")
@click.option("--once", is_flag=True, help="Print one table and end.")
def top(
    state_dir: Path,
    verifiers: tuple[str, ...],
    devices: tuple[str, ...],
    token_file: Path | None,
    every: float,
    once: bool,
) -> None:
    """Watch verifiers and devices at work.

    Without options the fleet of the `sled up` in this folder. Ctrl-C ends it.
    """
    if not 0.1 <= every <= 60:
        raise BadInput(f"--every is {every:g}; allowed: 0.1 to 60 seconds")
    named = targets_of_options(verifiers, devices, token_file)

    def targets() -> Targets:
        return named if verifiers or devices else targets_of_state(state_dir)

    asyncio.run(_watch(targets, every, once))


async def _watch(targets: Callable[[], Targets], every: float, once: bool) -> None:
    """Look again and again; who is watched is asked anew, because processes come and go."""
    watches: dict[str, VerifierWatch] = {}
    console = Console(width=None if sys.stdout.isatty() else LOG_COLUMNS)
    try:
        async with httpx.AsyncClient(timeout=DEVICE_SECONDS, trust_env=False) as client:
            before = await _look(targets(), watches, client)
            await asyncio.sleep(every)
            now = await _look(targets(), watches, client)
            if once:
                console.print(fleet_view(targets(), before, now))
                return
            view = fleet_view(targets(), before, now)
            with Live(view, console=console, screen=True, auto_refresh=False) as live:
                while True:
                    await asyncio.sleep(every)
                    shown = targets()
                    before, now = now, await _look(shown, watches, client)
                    live.update(fleet_view(shown, before, now), refresh=True)
    finally:
        for watch in watches.values():
            await watch.close()


async def _look(
    targets: Targets, watches: dict[str, VerifierWatch], client: httpx.AsyncClient
) -> Look:
    for target in targets.verifiers:
        if target.address not in watches:
            watches[target.address] = VerifierWatch(target.address, target.token_file)
    stats = await asyncio.gather(*(watches[v.address].read() for v in targets.verifiers))
    counters = await asyncio.gather(*(read_device(client, d.url) for d in targets.devices))
    return Look(
        time.monotonic(),
        {v.name: s for v, s in zip(targets.verifiers, stats, strict=True)},
        {d.name: c for d, c in zip(targets.devices, counters, strict=True)},
    )
