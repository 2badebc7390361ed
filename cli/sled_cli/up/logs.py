"""Shows what processes print: one line each, with the process's name in front.

Processes log JSON objects; `render` turns those into a sentence with its fields, and leaves other
lines as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from sled_cli.up.process import ProcessSpec, Role

OnLine = Callable[[ProcessSpec, str], None]
_LEVEL_COLOURS: Final = {"warning": "yellow", "error": "red", "critical": "red"}
_COLOURS: Final = ("cyan", "green", "magenta", "blue", "bright_cyan", "bright_magenta")
_PLUMBING: Final = ("time", "level", "logger", "message", "exception")


def render(line: str) -> tuple[str, str]:
    """Level (empty when unknown) and text of a line."""
    if not line.startswith("{"):
        return "", line
    try:
        record = json.loads(line)
    except ValueError:
        return "", line
    if not isinstance(record, dict) or "message" not in record:
        return "", line
    level = str(record.get("level", ""))
    rest = " ".join(f"{key}={_value(v)}" for key, v in record.items() if key not in _PLUMBING)
    text = f"{record['message']}  {rest}".rstrip()
    if "exception" in record:
        text += " | " + " | ".join(str(record["exception"]).splitlines()[-2:])
    return level, "".join(c if c.isprintable() else " " for c in text)


def _value(value: object) -> str:
    return value if isinstance(value, str) and " " not in value else json.dumps(value)


class ConsoleLog:
    """Prints lines to stderr."""

    def __init__(self, specs: tuple[ProcessSpec, ...]) -> None:
        self._width = max((len(spec.name) for spec in specs), default=0)
        self._colours = {
            spec.name: _COLOURS[index % len(_COLOURS)] for index, spec in enumerate(specs)
        }

    def __call__(self, spec: ProcessSpec, line: str) -> None:
        """Print one line of one process."""
        level, text = render(line)
        mark = "V" if spec.role is Role.VERIFIER else "D"
        prefix = click.style(f"{mark} {spec.name:<{self._width}} |", fg=self._colours[spec.name])
        colour = _LEVEL_COLOURS.get(level)
        click.echo(f"{prefix} {click.style(text, fg=colour) if colour else text}", err=True)


class FileLog:
    """Appends lines to one file per process, up to a size."""

    def __init__(self, folder: Path, max_bytes: int = 8_000_000) -> None:
        self._folder = folder
        self._max = max_bytes
        self._written: dict[Path, int] = {}

    def path(self, spec: ProcessSpec) -> Path:
        """The file of one process."""
        return self._folder / f"{spec.role}-{spec.name}.log"

    def __call__(self, spec: ProcessSpec, line: str) -> None:
        """Write one line of one process; beyond the size nothing more is kept."""
        file = self.path(spec)
        before = self._written.get(file, 0)
        if before >= self._max:
            return
        data = f"{line}\n".encode()
        with file.open("wb" if before == 0 else "ab") as opened:
            opened.write(data)
        self._written[file] = before + len(data)
