"""`sled models`: what is known, what is here, and getting more. Shows and asks; the work is
`ModelStore`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TransferSpeedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from sled_cli.models.catalogue import CatalogueEntry, DerivedOrigin
from sled_cli.models.errors import ModelError
from sled_cli.models.progress import OnProgress, Progress, Stage
from sled_cli.models.source import CatalogueSource, parse_source
from sled_cli.models.store import ModelStore


@click.group()
def models() -> None:
    """Fetch, verify and remove model files.

    A SOURCE is a name of the catalogue, hf://org/repo/file.gguf@revision, hf://org/repo@revision (a
    whole repository), s3://bucket/key, or file:///path.gguf.
    """


@models.command("list")
def list_models() -> None:
    """Show the catalogue and everything in the cache."""
    store = ModelStore()
    here = {stored.source: stored for stored in store.stored()}
    rows = [
        (name, entry.size_bytes, str(CatalogueSource(name)), entry.licence, _note(entry))
        for name, entry in sorted(store.catalogue.models.items())
    ]
    known = {source for _, _, source, _, _ in rows}
    rows += [
        (m.source, m.size_bytes, m.source, "", "") for m in here.values() if m.source not in known
    ]
    table = Table(box=None, pad_edge=False)
    for title in ("model", "size", "here", "licence", "note"):
        table.add_column(title, no_wrap=title != "note")
    for name, size_bytes, source, licence, note in rows:
        table.add_row(name, megabytes(size_bytes), "yes" if source in here else "", licence, note)
    Console().print(table)


@models.command()
@click.argument("source")
@click.option("--sha256", help="Refuse a file with another SHA-256.")
@click.option("--link", type=click.Path(path_type=Path), help="Also make this link to the file.")
def fetch(source: str, sha256: str | None, link: Path | None) -> None:
    """Fetch SOURCE into the cache, verify it and print its path."""
    with progress_bar() as progress:
        path = ModelStore().fetch(source, sha256, progress)
    if link is not None:
        fresh = link.with_name(f".{link.name}.new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(path)
        fresh.replace(link)
    click.echo(path)


@models.command()
@click.argument("source")
def path(source: str) -> None:
    """Print the path of SOURCE, which must be here already."""
    click.echo(ModelStore().path(source))


@models.command()
@click.argument("sources", nargs=-1)
def verify(sources: tuple[str, ...]) -> None:
    """Compare the SHA-256 of SOURCES (all cached models when none is named)."""
    store = ModelStore()
    wanted = {str(parse_source(source)) for source in sources}
    chosen = [stored for stored in store.stored() if not wanted or stored.source in wanted]
    missing = wanted - {stored.source for stored in chosen}
    if missing:
        raise ModelError(f"not in the cache: {', '.join(sorted(missing))}")
    wrong: list[str] = []
    for stored in chosen:
        try:
            with progress_bar() as progress:
                store.verify(stored, progress)
            click.echo(f"good   {stored.source}")
        except ModelError as error:
            click.echo(f"WRONG  {error}")
            wrong.append(stored.source)
    if wrong:
        raise ModelError(f"{len(wrong)} of {len(chosen)} files have changed; fetch them again")


@models.command()
@click.argument("source")
def remove(source: str) -> None:
    """Delete SOURCE from the cache."""
    freed = ModelStore().remove(source)
    click.echo(f"{megabytes(freed)} freed" if freed else f"{source} was not in the cache")


@contextmanager
def progress_bar(console: Console | None = None) -> Iterator[OnProgress]:
    """A bar on stderr that follows one fetch; lines of its own when stderr is no terminal."""
    console = console or Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[tuple[str, Stage], TaskID] = {}

        def show(progress: Progress) -> None:
            key = progress.name, progress.stage
            if key not in tasks:
                tasks[key] = bars.add_task(f"{progress.stage.value} {progress.name}", total=None)
                if not console.is_terminal:
                    console.print(f"{progress.stage.value} {progress.name}", soft_wrap=True)
            bars.update(tasks[key], completed=progress.done_bytes, total=progress.total_bytes)

        yield show


def megabytes(size_bytes: int) -> str:
    """A size for people: `98 MB`."""
    return f"{size_bytes / 1e6:,.0f} MB"


def _note(entry: CatalogueEntry) -> str:
    if isinstance(entry.origin, DerivedOrigin):
        return f"{entry.note}, made here from {entry.origin.base}"
    return entry.note
