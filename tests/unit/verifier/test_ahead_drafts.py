"""Drafts sent ahead: kept one a sequence, of use only where the verdict came as the device expected."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sled_protocol.v1 import verifier_pb2 as pb
from sled_verifier.ahead import AheadDrafts, follows
from sled_verifier.rounds import Load, RoundVerdict

VERDICT = RoundVerdict(10, 3, 3, 77, True, 0.0, 0.0, 8, Load())
"""After it 14 tokens are committed, the last of them 77."""


def draft(sequence: int = 1, committed_length: int = 14, follows_token: int = 77) -> pb.Draft:
    return pb.Draft(
        sequence=sequence, committed_length=committed_length, follows_token=follows_token
    )


@pytest.mark.parametrize(
    "verdict",
    [
        replace(VERDICT, next_token=78),
        replace(VERDICT, accepted=2),
        replace(VERDICT, accepted=2, verified=2),
        replace(VERDICT, committed_length=14),
    ],
)
def test_only_what_was_expected_is_followed(verdict: RoundVerdict) -> None:
    assert follows(draft(), VERDICT)
    assert not follows(draft(), verdict)


def test_token_zero_is_a_token() -> None:
    assert follows(draft(follows_token=0), replace(VERDICT, next_token=0))


def test_each_draft_is_told_of_once() -> None:
    told: list[bool] = []
    ahead = AheadDrafts(told.append)
    ahead.keep(draft(follows_token=5))
    ahead.keep(draft())
    assert told == [False]
    ahead.keep(draft(sequence=2))
    assert ahead.next_round(1, VERDICT) == draft()
    assert ahead.next_round(1, VERDICT) is None
    assert told == [False, True]
    ahead.drop(2)
    ahead.drop(2)
    ahead.drop(3)
    assert told == [False, True, False]
    assert not ahead.holds(draft(), None)
    assert told == [False, True, False, False]


def test_a_kept_draft_is_a_copy() -> None:
    ahead = AheadDrafts(lambda _use: None)
    frame = pb.Drafts(drafts=[draft(), draft(2)])
    ahead.keep(frame.drafts[0])
    frame.drafts[0].follows_token = 1
    assert ahead.next_round(1, VERDICT) == draft()
