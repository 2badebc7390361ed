"""Run the join kit on a device that is a folder.

Why: the kit's `--root` makes everything but K3s itself visible without a device and without root. Must not be used
to claim that K3s was installed: under `--root` nothing is.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sled_testkit.join_boards import Board

ROOT = Path(__file__).resolve().parents[3]
KIT = ROOT / "edge" / "k3s"
PROGRAM = KIT / "sled-edge-join"
SHELLS = ("sh", "bash --posix")
SERVER = "https://k3s.lan:6443"
TOKEN = "K10" + "0123456789abcdef" * 4 + "::server:2f1e0d3c4b5a69788796a5b4c3d2e1f0"
"""A token of the form that K3s writes; it opens nothing."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a run printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Everything that was printed."""
        return self.out + self.err


class Device:
    """A board under a folder, and the kit run on it."""

    def __init__(self, board: Board, folder: Path, shell: str = "sh") -> None:
        self.board = board
        self.root = folder / "device"
        self.root.mkdir(parents=True)
        board.write(self.root)
        self._shell = shell.split()
        self.token = folder / "token"
        self.write_token(TOKEN + "\n")

    def write_token(self, text: str, mode: int = 0o600) -> None:
        """Another content or mode of the token file."""
        self.token.write_text(text)
        self.token.chmod(mode)

    def run(self, *arguments: str, stdin: str = "", **environment: str) -> Done:
        """The kit with these arguments and the device as its root."""
        return run(
            [*self._shell, str(PROGRAM), "--root", str(self.root), *arguments],
            stdin,
            {"SLED_MACHINE": self.board.machine, **environment},
        )

    def join(self, *arguments: str, **environment: str) -> Done:
        """Join with the token file, and the usual server."""
        given = ("--server", SERVER, "--token-file", str(self.token), *arguments)
        return self.run(*given, **environment)

    def read(self, path: str) -> str:
        """A file on the device."""
        return (self.root / path.lstrip("/")).read_text()

    def files(self) -> dict[str, tuple[int, bytes]]:
        """Every file on the device with its mode and content."""
        return {
            str(path.relative_to(self.root)): (path.stat().st_mode & 0o777, path.read_bytes())
            for path in sorted(self.root.rglob("*"))
            if path.is_file()
        }


def run(command: list[str], stdin: str = "", environment: dict[str, str] | None = None) -> Done:
    """A command with a bounded time, and nothing of the caller's K3s settings."""
    inherited = {name: value for name, value in os.environ.items() if "K3S" not in name}
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**inherited, **(environment or {})},
    )
    return Done(done.returncode, done.stdout, done.stderr)
