"""Rounds that wait for a step: a bounded waiting room with deadlines. Must not decide who goes
first; the batcher does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sled_verifier.refusal import Reason, Refusal
from sled_verifier.rounds import DraftRequest


@dataclass(slots=True)
class Round:
    """A draft that waits for its verdict. `deadline` is when it is refused instead.

    `patient` rounds take the default deadline, which starts again whenever a chunk of their prompt
    was computed.
    """

    key: int
    draft: DraftRequest
    arrived: float
    deadline: float
    patient: bool
    attempts: int = 0


class RoundQueue:
    """At most `capacity` waiting rounds, one for each sequence."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._rounds: dict[int, Round] = {}

    def add(self, waiting: Round, retry_after_ms: int) -> None:
        """Let a round wait.

        Raises:
            Refusal: QUEUE_FULL, with the given time to try again.
        """
        if len(self._rounds) >= self.capacity:
            raise Refusal(
                Reason.QUEUE_FULL, f"{self.capacity} drafts are waiting already", retry_after_ms
            )
        self._rounds[waiting.key] = waiting

    def put_back(self, waiting: Round) -> None:
        """Let a round wait again whose step failed through no fault of its own; never refused."""
        self._rounds[waiting.key] = waiting

    def take(self, key: int) -> Round | None:
        """Remove and return the round of a sequence, if it waits."""
        return self._rounds.pop(key, None)

    def get(self, key: int) -> Round | None:
        """The waiting round of a sequence."""
        return self._rounds.get(key)

    def expire(self, now: float) -> list[Round]:
        """Remove and return the rounds whose deadline has passed."""
        late = [waiting for waiting in self._rounds.values() if waiting.deadline <= now]
        for waiting in late:
            del self._rounds[waiting.key]
        return late

    def next_deadline(self) -> float | None:
        """When the next `expire` will find something."""
        return min((waiting.deadline for waiting in self._rounds.values()), default=None)

    def __contains__(self, key: int) -> bool:
        return key in self._rounds

    def __iter__(self) -> Iterator[Round]:
        return iter(list(self._rounds.values()))

    def __len__(self) -> int:
        return len(self._rounds)
