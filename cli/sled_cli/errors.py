"""What a command of `sled` may fail with, and the exit code each failure has.

Tree: `CliError` (exit code 1) > `BadInput` (exit code 2). Every message is one sentence for a
person; a traceback is shown with `--debug` only.
"""

from __future__ import annotations


class CliError(Exception):
    """A command could not do what was asked; exit code 1."""

    exit_code = 1


class BadInput(CliError):
    """The arguments or documents are wrong; exit code 2, nothing was started."""

    exit_code = 2
