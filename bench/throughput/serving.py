"""The arms that are measured on one verifier, turn by turn, at every load."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fleet import Arm, Fleet, Window

from sled_bench.held_process import OFF, Case, HeldVerifier, ServerPolicy, held_verifier
from sled_bench.trace import DRAFT_TOKENS, read

PLAIN = Arm("no drafts", 0)
SLED = Arm("sled", DRAFT_TOKENS, heeds_hints=True)
FIXED = tuple(Arm(f"fixed {length}", length) for length in (1, 2, 4, 8))


@dataclass(frozen=True, slots=True)
class Run:
    """What a case showed. `margins`: at each place where the target would have chosen otherwise, by how much in logits."""

    windows: list[Window]
    places: int
    margins: list[float]


def rounds_at(load: int) -> int:
    """Rounds of a window: fewer where a step takes longer and more sequences tell more; but at 64 a step that a window has half
    of must not weigh much.
    """
    return 12 if load < 8 else 6 if 8 < load < 64 else 8


def turns_at(load: int, *, quick: bool) -> list[Arm]:
    """Arms in mirrored order, so that a machine that slows down does so for both; oftener where few texts are written."""
    turns = {1: 6, 4: 4, 8: 4, 16: 4}.get(load, 2)
    return [PLAIN, SLED, SLED, PLAIN] * (turns // 2 if quick else turns)


def fixed_turns(load: int, most_step_tokens: int, *, quick: bool) -> Iterator[Arm]:
    """The fixed lengths that fit a step, each beside a window without drafts."""
    for number, arm in enumerate(FIXED * (1 if quick else 3)):
        if number % 2 == 0:
            yield PLAIN
        if load * (arm.draft_tokens + 1) <= most_step_tokens:
            yield arm
    yield PLAIN


async def measured(case: Case, trace_file: Path, loads: Sequence[int], *, quick: bool) -> Run:
    """All arms at these loads; `quick`: fewer windows of each."""
    windows: list[Window] = []
    async with held_verifier(case, trace_file, max(loads)) as verifier:
        fleet = Fleet(verifier, read(trace_file).texts)
        for load in loads:
            await fleet.grow(load)
            async for window in _at_load(fleet, verifier, case, load, quick=quick):
                windows.append(window)
                print(case.name, window, flush=True)
        await fleet.close()
    return Run(windows, verifier.places, verifier.margins)


async def _at_load(
    fleet: Fleet, verifier: HeldVerifier, case: Case, load: int, *, quick: bool
) -> AsyncIterator[Window]:
    rounds = rounds_at(load)
    # The load policy gets to know the load.
    await fleet.window(SLED, 2 * rounds)
    for arm in turns_at(load, quick=quick):
        yield await fleet.window(arm, rounds)
    await verifier.use(OFF)
    for arm in fixed_turns(load, case.most_step_tokens, quick=quick):
        yield await fleet.window(arm, min(8, rounds))
    await verifier.use(ServerPolicy())
