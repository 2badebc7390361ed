"""The kit is plain POSIX shell, by shellcheck's judgement and by the shells that are here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sled_testkit.join_kit import KIT, PROGRAM, SHELLS

SHELLCHECK = Path(sys.executable).with_name("shellcheck")
SCRIPTS = sorted([PROGRAM, *KIT.rglob("*.sh")])


def test_shellcheck_finds_nothing() -> None:
    """The pinned one of the dev extra: what it says does not depend on the machine."""
    assert SHELLCHECK.is_file(), "shellcheck is missing: run make env"
    command = [
        str(SHELLCHECK),
        "--external-sources",
        "--enable=require-double-brackets,check-unassigned-uppercase",
    ]
    done = subprocess.run(
        [*command, str(PROGRAM)], cwd=KIT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_shell_parses_it(script: Path, shell: str) -> None:
    done = subprocess.run(
        [*shell.split(), "-n", str(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_files_are_short() -> None:
    assert {
        path.name: lines for path in SCRIPTS if (lines := len(path.read_text().splitlines())) > 250
    } == {}
