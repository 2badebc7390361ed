"""Drafts that devices send before the verdict on the one before them, until it is known whether they hold. Pure.

A device that has drafted on while it waits need not wait for the way there and back: what it sent ahead is the next round
in the very step in which the verdict before it fell (proactive drafting, SpecEdge, arXiv 2505.17052, with the draft already
at the server). It holds where that verdict accepts the whole draft and brings the token that the device expected, so it is
exactly the draft that would have come later. Must not answer anybody.
"""

from __future__ import annotations

from collections.abc import Callable

from sled_protocol.v1 import verifier_pb2 as pb
from sled_verifier.rounds import RoundVerdict


def follows(draft: pb.Draft, verdict: RoundVerdict) -> bool:
    """Whether `draft` continues what this verdict leaves: its length tells that everything was accepted."""
    length = verdict.committed_length + verdict.accepted + 1
    return draft.committed_length == length and draft.follows_token == verdict.next_token


class AheadDrafts:
    """At most one draft a sequence of one stream. `note` is told what became of each: whether it was of use."""

    def __init__(self, note: Callable[[bool], None]) -> None:
        self._note = note
        self._kept: dict[int, pb.Draft] = {}

    def keep(self, draft: pb.Draft) -> None:
        """Keep a draft until the running round is answered, in place of any other of the sequence."""
        self.drop(draft.sequence)
        copy = pb.Draft()
        copy.CopyFrom(draft)  # of its own: a part of a frame would keep the whole frame in memory
        self._kept[draft.sequence] = copy

    def next_round(self, sequence: int, verdict: RoundVerdict) -> pb.Draft | None:
        """The kept draft where it follows on this verdict; any other is dropped."""
        draft = self._kept.pop(sequence, None)
        return draft if draft is not None and self.holds(draft, verdict) else None

    def holds(self, draft: pb.Draft, last: RoundVerdict | None) -> bool:
        """Whether a draft follows on the last verdict, of use or not."""
        use = last is not None and follows(draft, last)
        self._note(use)
        return use

    def drop(self, sequence: int) -> None:
        """No verdict will come on which a kept draft could follow."""
        if self._kept.pop(sequence, None) is not None:
            self._note(False)
