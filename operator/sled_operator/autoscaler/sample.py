"""What the autoscaler knows about the verifiers at one instant. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stats:
    """What one verifier says of itself (a part of `sled.v1.Stats`)."""

    queue_depth: int
    active_sequences: int
    connected_devices: int
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """All replicas at once; `silent` is the number that should have answered and did not."""

    answers: tuple[Stats, ...]
    silent: int = 0
    activated: bool = False
    """A device has knocked while no replica ran."""

    @property
    def queue_depth(self) -> int:
        """Waiting drafts over all that answered."""
        return sum(stats.queue_depth for stats in self.answers)

    @property
    def active_sequences(self) -> int:
        """Open sequences over all that answered."""
        return sum(stats.active_sequences for stats in self.answers)

    @property
    def quiet(self) -> bool:
        """True when every replica answered and none has anything to do for anybody."""
        return not self.silent and all(
            not (stats.queue_depth or stats.active_sequences or stats.connected_devices)
            for stats in self.answers
        )


def sample(answers: Sequence[Stats | None], activated: bool = False) -> Sample:
    """A sample from one answer per replica; None where there was none."""
    given = tuple(answer for answer in answers if answer is not None)
    return Sample(given, len(answers) - len(given), activated)
