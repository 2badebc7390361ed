"""The command `sled version`: what a report of a problem should begin with."""

from __future__ import annotations

import platform
from importlib import metadata

import click

PARTS = ("xllamacpp", "grpcio", "numpy")


@click.command()
def version() -> None:
    """Show versions of SLED and what it runs on."""
    from sled_protocol.limits import REVISION

    click.echo(f"sled {_of('sled-inference')}")
    click.echo(f"protocol sled.v1 revision {REVISION}")
    click.echo(f"python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for part in PARTS:
        click.echo(f"{part} {_of(part)}")


def _of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
