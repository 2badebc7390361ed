"""The board as tables for a terminal. Pure."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table

from sled_cli.demo.board import Board, DeviceLine
from sled_cli.watch.rows import NOTHING, device_figures, figure, milliseconds

_NUMBERS = ("Texts", "Tokens\n/s", "Drafts\nkept", "Tokens\n/pass", "Link B\n/token")
_LOAD = ("Queue", "Texts\nopen", "Tokens\n/step", "Step", "Steps", "Rounds\n/step")


def board_view(board: Board) -> RenderableType:
    """Devices and verifiers as they are now."""
    return Group("", _devices(board), "", _verifiers(board))


def _devices(board: Board) -> Table:
    table = _table(("Device", "Drafter"), _NUMBERS, last="State")
    for device in board.devices:
        table.add_row(*device_row(board, device))
    return table


def _table(names: tuple[str, ...], numbers: tuple[str, ...], last: str | None = None) -> Table:
    """Headers take two lines, so that the figures fit a terminal of 80 columns."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in names:
        table.add_column(name, no_wrap=True, vertical="bottom")
    for name in numbers:
        width = max(len(word) for word in name.split("\n"))
        table.add_column(name, justify="right", min_width=width, vertical="bottom")
    if last is not None:
        table.add_column(last, no_wrap=True, vertical="bottom")
    return table


def device_row(board: Board, device: DeviceLine) -> tuple[str, ...]:
    """The cells of one device."""
    return (
        device.name,
        device.draft,
        f"{len(device.answers)}/{device.texts}",
        *device_figures(device.totals, board.tokens_per_second(device)),
        device.state,
    )


def _verifiers(board: Board) -> Table:
    table = _table(("Verifier", "Target model"), _LOAD)
    for line in board.verifiers:
        stats = line.stats
        if stats is None:
            table.add_row(line.name, line.model, *[NOTHING] * 6)
            continue
        table.add_row(
            line.name,
            line.model,
            str(stats.queue_depth),
            str(stats.sequences),
            str(stats.step_tokens),
            milliseconds(stats.step_seconds_p50),
            str(line.steps),
            figure(line.rounds / line.steps if line.steps else None, 2),
        )
    return table
