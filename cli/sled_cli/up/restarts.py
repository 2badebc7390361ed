"""When a process that died is started again. Pure."""

from __future__ import annotations

from dataclasses import dataclass

BAD_CONFIGURATION = 2
"""Exit code of a process that refuses its configuration: starting it again cannot help."""


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Exponential backoff with an end."""

    first_delay_seconds: float = 0.5
    factor: float = 2.0
    longest_delay_seconds: float = 15.0
    most_deaths: int = 5
    """Deaths in a row after which the process is given up."""
    stable_seconds: float = 30.0
    """A process that was ready for this long starts again with a clean slate."""

    def deaths_in_a_row(self, before: int, ready_seconds: float) -> int:
        """Count a death of a process that was ready for `ready_seconds` before it."""
        return 1 if ready_seconds >= self.stable_seconds else before + 1

    def delay_seconds(self, deaths: int, exit_code: int) -> float | None:
        """How long to wait after the death number `deaths` in a row; None = give up."""
        if deaths >= self.most_deaths or exit_code == BAD_CONFIGURATION:
            return None
        return min(
            self.first_delay_seconds * self.factor ** (deaths - 1), self.longest_delay_seconds
        )
