"""Entry point of the `sled` command: its groups, and how failures are shown.

Commands are imported when they are asked for, so that `sled --help` answers at once.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence
from typing import Final

import click

from sled_cli.errors import CliError

INTERRUPTED: Final = 130
COMMANDS: Final = {
    "up": ("sled_cli.up.command", "up", "Run SLEDServer and EdgeDrafter documents here."),
    "demo": ("sled_cli.demo.command", "demo", "Run a fleet, and prove its text exact."),
    "top": ("sled_cli.top.command", "top", "Watch verifiers and devices at work."),
    "models": ("sled_cli.models.commands", "models", "Fetch, verify and list models."),
    "version": ("sled_cli.version", "version", "Show versions of SLED and what it runs on."),
}


class LazyGroup(click.Group):
    """Loads a command from its module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of a user's first day."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}.{attribute} is no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, _, summary) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
@click.version_option(package_name="sled-inference", prog_name="sled")
def cli(debug: bool) -> None:
    """SLED: small devices draft, one shared server verifies, the text is exactly the large model's.

    \b
    Begin with:
      sled demo                          a fleet on this machine, checked token for token
      sled up -f examples/quickstart     the same fleet, yours to use
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(_run(words, debug="--debug" in words[: _first_command(words)]))


def _first_command(words: list[str]) -> int:
    return next((i for i, word in enumerate(words) if not word.startswith("-")), len(words))


def _run(words: list[str], *, debug: bool) -> int:
    try:
        result = cli.main(args=words, prog_name="sled", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except CliError as error:
        _show(str(error), debug=debug)
        return error.exit_code
    except Exception as error:
        # The last resort of a program: whatever was not foreseen is a failure with a sentence.
        _show(_sentence(error), debug=debug)
        return CliError.exit_code


def _sentence(error: Exception) -> str:
    from sled_cli.models.errors import ModelError

    if isinstance(error, ModelError):
        return str(error)
    return f"unexpected {type(error).__name__}: {error} (--debug shows where)"


def _show(sentence: str, *, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    click.secho(f"sled: {sentence}", fg="red", err=True)


if __name__ == "__main__":
    main()
