"""Shows a demonstration while it runs: a live table on a terminal, a line per text elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from sled_cli.demo.board import Board, DeviceLine
from sled_cli.demo.client import Answer
from sled_cli.demo.prompts import Prompt
from sled_cli.demo.reference import OwnText
from sled_cli.demo.table import board_view


class Display(Protocol):
    """What the runner tells; a context manager around the run."""

    def __enter__(self) -> Self:
        """Begin to show."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the last state standing."""
        ...

    def update(self) -> None:
        """The board has changed."""
        ...

    def answered(self, device: DeviceLine, answer: Answer) -> None:
        """A text is whole, or has failed."""
        ...


class LiveDisplay:
    """Tables that are drawn again in place."""

    def __init__(self, board: Board, console: Console) -> None:
        self._board = board
        self._live = Live(board_view(board), console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.update()
        self._live.stop()

    def update(self) -> None:
        """See `Display`."""
        self._live.update(board_view(self._board), refresh=True)

    def answered(self, device: DeviceLine, answer: Answer) -> None:
        """See `Display`."""
        self.update()


class PlainDisplay:
    """A line for each text, and the tables once at the end."""

    def __init__(self, board: Board, console: Console) -> None:
        self._board = board
        self._console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self._console.print(board_view(self._board))

    def update(self) -> None:
        """See `Display`; a log has no use for every moment."""

    def answered(self, device: DeviceLine, answer: Answer) -> None:
        """See `Display`."""
        done, all_texts = len(self._board.answers), self._board.texts
        what = answer.error or f"{len(answer.tokens)} tokens in {answer.seconds:.1f} s"
        self._console.print(
            f"[{done:>3}/{all_texts}] {device.name} ({device.draft}) {answer.prompt}: {what}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def display_for(board: Board, console: Console) -> Display:
    """The display that suits the console."""
    if console.is_terminal:
        return LiveDisplay(board, console)
    return PlainDisplay(board, console)


@contextmanager
def comparison_progress(
    console: Console, texts: int
) -> Iterator[Callable[[Prompt, OwnText], None]]:
    """A bar over the texts that the target writes alone; a line each where there is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("comparing", total=texts)
        done = 0

        def advance(prompt: Prompt, own: OwnText) -> None:
            nonlocal done
            done += 1
            bar.advance(task)
            if not console.is_terminal:
                line = f"[{done:>3}/{texts}] {prompt.name}: {len(own.tokens)} tokens"
                console.print(line, markup=False, highlight=False, soft_wrap=True)

        yield advance
