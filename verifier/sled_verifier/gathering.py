"""How long a step is held back so that drafts which are about to arrive can join it. Pure; must not
know sequences or read a clock.

After a step its devices answer one by one, some milliseconds apart. Whoever comes first would start
a step alone, the others would wait for its end, and the devices would fall into two groups that
take turns: two steps where one does. A device's last pause tells when its draft is due.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

MAX_STEP_SHARE = 0.25
"""Longest wait, as a share of a step's own time."""
MARGIN = 1.5
"""A pause may be so many times as long as the last one before its device counts as silent."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Start the step at `until`, or as soon as `rounds` wait."""

    until: float
    rounds: int


def hold_for(waiting: int, due_at: Iterable[float], step_seconds: float, now: float) -> Hold | None:
    """Whom to wait for: the wait that saves the most waiting altogether; None to start at once.

    `due_at` are the times at which further drafts are due. Who joins saves about a step; those who
    wait already pay for the wait.
    """
    latest = now + MAX_STEP_SHARE * step_seconds
    best: Hold | None = None
    best_saved = paid = 0.0
    joined, last = 0, now
    for due in sorted(due for due in due_at if due <= latest):
        due = max(due, now)
        paid += (waiting + joined) * (due - last)
        joined, last = joined + 1, due
        saved = joined * step_seconds - paid
        if saved > best_saved:
            best, best_saved = Hold(due, waiting + joined), saved
    return best


@dataclass(slots=True)
class Rhythm:
    """When the device of one sequence usually answers.

    `answered_at` is None while a round waits or none was answered yet; `pause_seconds` is the last time between a verdict and
    the next draft.
    """

    answered_at: float | None = None
    pause_seconds: float | None = None

    def heard(self, now: float, *, ahead: bool = False) -> None:
        """The device sent a draft; where it had sent that ahead, there was no pause to learn from."""
        if self.answered_at is not None and not ahead:
            self.pause_seconds = now - self.answered_at
        self.answered_at = None

    def answered(self, now: float) -> None:
        """It got a verdict."""
        self.answered_at = now

    def due_at(self, now: float) -> float | None:
        """By when its next draft should be there; None when nobody knows or that is past."""
        if self.answered_at is None or self.pause_seconds is None:
            return None
        due = self.answered_at + MARGIN * self.pause_seconds
        return due if due >= now else None
