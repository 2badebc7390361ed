"""What a demonstration showed, in words and as figures. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sled_cli.demo.board import Board
from sled_cli.demo.compare import Difference

MAX_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Figures:
    """The demonstration in numbers."""

    texts: int
    identical: int
    output_tokens: int
    passes_alone: int
    passes: int
    steps: int
    acceptance: float
    link_bytes_per_token: float
    fleet_tokens_per_second: float
    target_alone_tokens_per_second: float
    seconds: float

    @property
    def passes_saved_percent(self) -> float:
        """Of the passes that plain decoding needs; negative when more were made."""
        if not self.passes_alone:
            return 0.0
        return 100 * (1 - self.passes / self.passes_alone)

    @property
    def tokens_per_pass(self) -> float:
        """Tokens for each pass of the target, end tokens too."""
        return self.passes_alone / self.passes if self.passes else 0.0


def figures(
    board: Board,
    differences: Sequence[Difference],
    seconds: float,
    target_alone_tokens_per_second: float,
) -> Figures:
    """Sum up a board; `seconds` is the time that all devices together took."""
    totals = [device.totals for device in board.devices]
    output_tokens = sum(len(answer.tokens) for answer in board.answers)
    drafted = sum(t.draft_tokens for t in totals)
    return Figures(
        texts=board.texts,
        identical=board.texts - len(differences),
        output_tokens=output_tokens,
        passes_alone=sum(answer.passes_alone for answer in board.answers),
        passes=sum(t.passes for t in totals),
        steps=sum(verifier.steps for verifier in board.verifiers),
        acceptance=sum(t.accepted_tokens for t in totals) / drafted if drafted else 0.0,
        link_bytes_per_token=sum(t.link_bytes for t in totals) / max(1, output_tokens),
        fleet_tokens_per_second=output_tokens / seconds if seconds > 0 else 0.0,
        target_alone_tokens_per_second=target_alone_tokens_per_second,
        seconds=seconds,
    )


def saved(result: Figures) -> list[str]:
    """What was saved, in sentences."""
    change = result.passes_saved_percent
    compared = f"{change:.0f} % fewer" if change >= 0 else f"{-change:.0f} % more"
    return [
        f"{result.texts} texts, {result.output_tokens:,} output tokens. Alone, the target needs a "
        f"pass for each of them and for each end of a text: {result.passes_alone:,} passes.",
        f"With SLED it made {result.passes:,}: {compared}, {result.tokens_per_pass:.2f} tokens a "
        f"pass. Devices shared steps, so that the engine ran {result.steps:,} steps, prompts "
        "included.",
        f"The devices' drafts were right {100 * result.acceptance:.0f} % of the time; the link "
        f"carried {result.link_bytes_per_token:.0f} bytes per output token, both ways together.",
        f"This machine played all devices and the server at once: "
        f"{result.fleet_tokens_per_second:.1f} tokens/s over all devices. The target alone, one "
        f"text at a time: {result.target_alone_tokens_per_second:.1f}.",
    ]


def by_device(board: Board) -> list[str]:
    """A sentence for each device."""
    lines = []
    for device in board.devices:
        totals = device.totals
        if totals.acceptance is None:
            drafts = "drafted nothing, because it would not have paid"
        else:
            drafts = (
                f"drafted {totals.draft_tokens:,} tokens, {100 * totals.acceptance:.0f} % of them "
                f"accepted"
            )
        rate = totals.tokens_per_pass or 0.0
        lines.append(f"{device.name} ({device.draft}) {drafts}: {rate:.2f} tokens a pass")
    return lines


def shown_differences(differences: Sequence[Difference]) -> list[str]:
    """Where texts differ; at most `MAX_SHOWN` of them."""
    lines = [f"{d.answer.device}, {d.answer.prompt}: {d.sentence}" for d in differences[:MAX_SHOWN]]
    if len(differences) > MAX_SHOWN:
        lines.append(f"and {len(differences) - MAX_SHOWN} more")
    return lines


def verdict(result: Figures) -> str:
    """The last line."""
    return f"{result.identical} of {result.texts} texts identical to the target's own"
