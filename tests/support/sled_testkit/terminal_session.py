"""Runs commands in a terminal and keeps what a person would have seen, with the moments: an asciicast.

Why: a recording in the documentation must come from a run. Whatever is shown as typed is what a shell
executed, and what follows is what it printed. Format: asciicast v2, one JSON array a line.
Must not shorten or repair output.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping
from pathlib import Path

COLUMNS, LINES = 172, 36
PROMPT = "$ "
_IDLE_SECONDS = 2.0
"""A player skips what takes longer than this without output."""


class CommandFailed(RuntimeError):
    """A command of the session ended with an error; the message is what it printed."""


class TerminalSession:
    """One shell's worth of commands in one folder."""

    def __init__(self, title: str, folder: Path, environment: Mapping[str, str]) -> None:
        self._title = title
        self._folder = folder
        self._environment = {**environment, "TERM": "dumb", "COLUMNS": str(COLUMNS)}
        self._began = time.monotonic()
        self._started_at = int(time.time())
        self._events: list[tuple[float, str]] = []

    def run(self, command: str, timeout_seconds: float = 240.0) -> str:
        """Run one line of shell; returns what it printed.

        Raises:
            CommandFailed: it ended with an error or not at all.
        """
        self._show(f"{PROMPT}{command}".replace("\n", "\r\n> ") + "\r\n")
        terminal, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        process = subprocess.Popen(
            ["/bin/bash", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=inside,
            stderr=inside,
            cwd=self._folder,
            env=dict(self._environment),
        )
        os.close(inside)
        try:
            printed = self._follow(terminal, time.monotonic() + timeout_seconds)
            status = process.wait(timeout=10.0)
        except (TimeoutError, subprocess.TimeoutExpired):
            process.kill()
            process.wait()
            raise CommandFailed(f"{command}: not finished in {timeout_seconds:.0f} s") from None
        finally:
            os.close(terminal)
        if status != 0:
            raise CommandFailed(f"{command}: {printed}")
        return printed

    def write(self, path: Path) -> None:
        """The recording so far."""
        header = {
            "version": 2,
            "width": COLUMNS,
            "height": LINES,
            "timestamp": self._started_at,
            "title": self._title,
            "idle_time_limit": _IDLE_SECONDS,
        }
        lines = [json.dumps(header)]
        lines += [json.dumps([round(at, 3), "o", text]) for at, text in self._events]
        path.write_text("\n".join(lines) + "\n")

    def _follow(self, terminal: int, deadline: float) -> str:
        printed = b""
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if not select.select([terminal], [], [], left)[0]:
                continue
            try:
                part = os.read(terminal, 65_536)
            except OSError:  # the last writer is gone
                part = b""
            if not part:
                return printed.decode(errors="replace")
            printed += part
            self._show(part.decode(errors="replace"))

    def _show(self, text: str) -> None:
        self._events.append((time.monotonic() - self._began, text))
