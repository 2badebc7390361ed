"""The command `sled demo`. Wires plan, fleet, prompts, comparison and report; decides nothing."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click
from rich.console import Console

from sled_cli.demo.profile import PROFILES, example_folder
from sled_cli.demo.prompts import own_prompts, read_prompts
from sled_cli.demo.show import Request, Show
from sled_cli.errors import BadInput
from sled_cli.up.command import DEFAULT_STATE_DIR, plan_files
from sled_cli.up.fetch import fetch_models
from sled_cli.up.fleet_plan import FleetPlan
from sled_cli.up.state import StateFolder

MAX_TOKENS = 2048
LOG_COLUMNS = 120
"""Width of the tables where there is no terminal."""


@click.command()
@click.option(
    "--profile",
    type=click.Choice(list(PROFILES)),
    default="quickstart",
    show_default=True,
    help="; ".join(f"{profile.name}: {profile.about}" for profile in PROFILES.values()),
)
@click.option(
    "files",
    "-f",
    "--file",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Documents of your own instead of the profile's.",
)
@click.option(
    "prompts_file",
    "--prompts",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Prompts of your own: YAML like sled_cli/demo/prompts.yaml.",
)
@click.option("--max-tokens", type=int, help="Longest text; the profile says what is usual.")
@click.option("--keep", is_flag=True, help="Leave the fleet up afterwards, until Ctrl-C.")
@click.option(
    "--results",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the figures to this file, as bench/results has them.",
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_STATE_DIR,
    show_default=True,
    help="Folder for configurations, logs, and the state file that `sled top` reads.",
)
@click.option(
    "--cache-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Model cache; the default is that of `sled models`.",
)
def demo(
    profile: str,
    files: tuple[Path, ...],
    prompts_file: Path | None,
    max_tokens: int | None,
    keep: bool,
    results: Path | None,
    state_dir: Path,
    cache_dir: Path | None,
) -> None:
    """Run a fleet on this machine, and compare every text with the target model's own.

    One verifier and several devices with different drafters answer a set of prompts at the same
    time. Then the target model writes the same texts alone, and they are compared token for token.
    The exit status is 1 when any text differs.
    """
    chosen = PROFILES[profile]
    limit = chosen.max_tokens if max_tokens is None else max_tokens
    if not 1 <= limit <= MAX_TOKENS:
        raise BadInput(f"--max-tokens is {limit}; allowed: 1 to {MAX_TOKENS}")
    prompts = own_prompts() if prompts_file is None else read_prompts(prompts_file)
    plan = plan_files(files or (example_folder(chosen),))
    _check(plan)
    folder = StateFolder(state_dir)
    with folder.owned():
        paths = fetch_models(plan.models(), cache_dir)
        request = Request(prompts, limit, keep, results, "sled " + " ".join(sys.argv[1:]))
        console = Console(width=None if sys.stdout.isatty() else LOG_COLUMNS)
        identical = asyncio.run(Show(plan, paths, folder, request, console).run())
    if not identical:
        raise click.exceptions.Exit(1)


def _check(plan: FleetPlan) -> None:
    if not plan.devices:
        raise BadInput("a demonstration needs at least one EdgeDrafter")
    for device in plan.devices:
        if device.server is None:
            raise BadInput(
                f"device {device.name} has a verifier elsewhere; a demonstration compares with the "
                "target itself, so name a SLEDServer"
            )
