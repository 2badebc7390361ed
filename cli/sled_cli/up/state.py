"""The state folder: who uses it, the processes' configurations, and a file that says where they
listen.

`sled top` and scripts read `up.json`. Nothing secret is in it: tokens are in files of their own,
readable by the owner only.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from sled_cli.errors import BadInput, CliError

STATE_FILE: Final = "up.json"
FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class StateFolder:
    """A folder that one `sled up` owns while it runs."""

    path: Path

    @property
    def state_file(self) -> Path:
        """Where the state is written."""
        return self.path / STATE_FILE

    @property
    def tokens_file(self) -> Path:
        """`device:token` lines, for verifiers."""
        return self.path / "tokens"

    @property
    def token_file(self) -> Path:
        """The same token alone, for devices."""
        return self.path / "token"

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Make the folder and hold it; the system lets go of it when this program dies.

        Raises:
            CliError: another `sled up` holds it, or it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with (self.path / "lock").open("a") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise CliError(
                        f"another sled up uses {self.path}; stop it, or name another --state-dir"
                    ) from error
                yield
                self.state_file.unlink(missing_ok=True)
        except OSError as error:
            raise CliError(f"{self.path}: cannot be used: {error}") from error

    def write_tokens(self) -> None:
        """Make a token for this run."""
        token = secrets.token_urlsafe(32)
        _write_private(self.tokens_file, f"*:{token}\n")
        _write_private(self.token_file, f"{token}\n")

    def write_config(self, role: str, name: str, config: Mapping[str, Any]) -> Path:
        """Write one process's configuration and return its path."""
        file = self.path / f"{role}-{name}.yaml"
        _write_private(file, yaml.safe_dump(dict(config), sort_keys=False))
        return file

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Replace the state file; readers see the former one or this one, never a part."""
        draft = self.path / f"{STATE_FILE}.new"
        draft.write_text(json.dumps({"format": FORMAT, **state}, indent=1) + "\n", "utf-8")
        draft.replace(self.state_file)


def read_state(folder: Path) -> dict[str, Any]:
    """What a running `sled up` wrote.

    Raises:
        BadInput: there is none, or it is not such a file.
    """
    file = folder / STATE_FILE
    try:
        state = json.loads(file.read_text("utf-8"))
    except FileNotFoundError as error:
        raise BadInput(
            f"no fleet runs in {folder}: {file} is not there; start one with sled up"
        ) from error
    except (OSError, ValueError) as error:
        raise BadInput(f"{file}: cannot be read: {error}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise BadInput(f"{file}: was not written by this version of sled up")
    return state


def _write_private(file: Path, text: str) -> None:
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(text)
