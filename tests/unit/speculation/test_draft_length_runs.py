"""What the draft-length policy makes of tokens that need no asking."""

from __future__ import annotations

import pytest

from sled_speculation.draft_length import DraftLengthController
from sled_speculation.draft_length_policy import DraftLengthSettings
from sled_speculation.expectation import RoundCost, best_draft_length


def taught(
    draft_seconds: float, round_trip: float, plain: float, accepted: int = 3
) -> DraftLengthController:
    """After rounds of four draft tokens, of which so many were right, and a trial of plain tokens that need no asking."""
    policy = DraftLengthController(DraftLengthSettings(max_tokens=8))
    for _ in range(60):
        if policy.limit() == 0 and policy.plain_tokens:
            for _ in range(policy.plain_tokens):
                policy.observe_run(plain)
        policy.observe(4, accepted, 4 * draft_seconds, round_trip, served_seconds=plain)
    return policy


def declines(policy: DraftLengthController) -> bool:
    """Whether it lets the verifier go on for long."""
    drafts = policy.limit() > 0 and policy.keep_drafting(())
    assert drafts is (policy.plain_tokens == 0)
    return policy.plain_tokens > 4


def test_a_device_that_is_slower_than_the_verifier_alone_lets_it_go_on() -> None:
    """0.2 s for a draft token, 50 ms for the way, 0.1 s for a step: drafts beat asking, not a run."""
    assert declines(taught(0.2, 0.15, 0.1))


def test_a_device_that_is_quicker_drafts() -> None:
    policy = taught(0.02, 0.15, 0.1)
    assert policy.limit() >= 3
    assert not declines(policy)


def test_the_way_to_the_verifier_does_not_count_against_a_run() -> None:
    """At 80 ms a draft token and 0.4 s of network, drafts beat asking for each token, but not a verifier 20 ms a token."""
    assert declines(taught(0.08, 0.42, 0.02))
    assert not declines(taught(0.08, 0.42, 0.42))


def test_what_needs_no_asking_is_tried_soon_and_then_seldom() -> None:
    policy = DraftLengthController(DraftLengthSettings(max_tokens=8))
    trials = []
    for round_number in range(800):
        if policy.limit() == 0 and policy.plain_tokens:
            trials.append(round_number)
            policy.observe(0, 0, 0.0, 0.3, served_seconds=0.25)
            for _ in range(policy.plain_tokens - 1):
                policy.observe_run(0.25)
        else:
            policy.observe(4, 3, 0.08, 0.3, served_seconds=0.25 if round_number > 400 else 0.1)
    assert len(trials) == 3
    assert trials[0] < 20
    assert trials[-1] < 420, "a crowded verifier is not tried: a plain token would wait as long"


def test_one_token_may_lose_where_four_win() -> None:
    cost = RoundCost(0.001, 0.25, plain_seconds=0.1)
    acceptances = [0.95] * 6
    assert cost.seconds(0) == 0.1
    assert best_draft_length(acceptances[:1], cost) == 0
    assert best_draft_length(acceptances, cost) == 6
    with pytest.raises(ValueError, match="plain_seconds"):
        RoundCost(0.1, 0.1, plain_seconds=0.0)


def test_while_it_does_not_draft_hope_returns() -> None:
    policy = taught(0.02, 0.15, 0.1, accepted=0)
    assert declines(policy)
    runs = 0
    while declines(policy) and runs < 1000:
        for _ in range(policy.plain_tokens):
            policy.observe_run(0.1)
        runs += 1
    assert runs < 100, "never tries again"


def test_a_new_generation_begins_with_an_open_mind() -> None:
    policy = taught(0.2, 0.15, 0.1)
    assert declines(policy)
    assert policy.fork().plain_tokens == 0
