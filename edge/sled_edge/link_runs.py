"""Answers that come without a further draft, because the verifier goes on by itself or has the next draft already, until
somebody asks for them. Pure bookkeeping.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from sled_protocol.limits import MAX_RUN_TOKENS
from sled_protocol.v1 import verifier_pb2 as pb

Message = pb.Verdict | pb.Refused


class RunTooLong(Exception):
    """The verifier sends more than anybody has allowed."""


@dataclass(slots=True)
class _Run:
    next_length: int | None
    """Committed length of the answer that is to come; None when none is."""
    arrived: deque[tuple[Message, int]] = field(default_factory=deque)


def length_after(verdict: pb.Verdict) -> int:
    """Committed length once the verdict's output is committed."""
    return verdict.committed_length + verdict.accepted + 1


def _announced(message: Message, offer: tuple[int, int] | None = None) -> int | None:
    """Committed length of the answer that this one announces: the verifier goes on, or what was offered holds."""
    if not isinstance(message, pb.Verdict):
        return None
    length = length_after(message)
    return length if message.goes_on or offer == (length, message.next_token) else None


class Runs:
    """The runs of all sequences of a stream, by wire id."""

    def __init__(self) -> None:
        self._runs: dict[int, _Run] = {}
        self._offers: dict[int, tuple[int, int]] = {}

    @property
    def under_way(self) -> bool:
        """True while an answer is to come that nobody asked for."""
        return any(run.next_length is not None for run in self._runs.values())

    def offered(self, wire_id: int, committed_length: int, follows_token: int) -> None:
        """A draft was sent ahead, and will be answered if the next verdict leaves this length and ends with this token."""
        self._offers[wire_id] = committed_length, follows_token

    def begin(self, message: Message) -> None:
        """An answer that was waited for: a run begins, goes on or ends with it, or a draft that was offered holds."""
        length = _announced(message, self._offers.pop(message.sequence, None))
        if length is None:
            self.drop(message.sequence)
        else:
            self._runs[message.sequence] = _Run(length)

    def keep(self, message: Message, size_bytes: int) -> bool:
        """Keep an answer that nobody waits for yet; False when it belongs to no run.

        Raises:
            RunTooLong: more than `MAX_RUN_TOKENS` are kept.
        """
        run = self._runs.get(message.sequence)
        if run is None or run.next_length != message.committed_length:
            return False
        if len(run.arrived) >= MAX_RUN_TOKENS:
            raise RunTooLong
        run.arrived.append((message, size_bytes))
        run.next_length = _announced(message)
        return True

    def expects(self, wire_id: int, committed_length: int) -> bool:
        """Whether the answer for this length comes, or has come, unasked."""
        run = self._runs.get(wire_id)
        if run is None:
            return False
        if run.arrived:
            return run.arrived[0][0].committed_length == committed_length
        return run.next_length == committed_length

    def take(self, wire_id: int, committed_length: int) -> tuple[Message, int] | None:
        """The answer kept for this length, with its size in bytes."""
        run = self._runs.get(wire_id)
        if run is None or not run.arrived or not self.expects(wire_id, committed_length):
            return None
        first = run.arrived.popleft()
        if not run.arrived and run.next_length is None:
            del self._runs[wire_id]
        return first

    def drop(self, wire_id: int) -> None:
        """Nobody will ask for this sequence's answers any more."""
        self._runs.pop(wire_id, None)
        self._offers.pop(wire_id, None)

    def clear(self) -> None:
        """The stream is over."""
        self._runs.clear()
        self._offers.clear()
