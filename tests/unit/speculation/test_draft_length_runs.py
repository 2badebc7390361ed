"""What the draft-length policy makes of tokens that need no asking."""

from __future__ import annotations

import pytest

from sled_speculation.draft_length import DraftLengthController, DraftLengthSettings
from sled_speculation.expectation import RoundCost, best_draft_length


def taught(
    draft_seconds: float, round_trip: float, served: float, accepted: int = 3
) -> DraftLengthController:
    """After rounds of four draft tokens, of which so many were right."""
    policy = DraftLengthController(DraftLengthSettings(max_tokens=8))
    for _ in range(60):
        policy.limit()
        policy.observe(4, accepted, 4 * draft_seconds, round_trip, step_seconds=served)
    return policy


def test_a_device_that_is_slower_than_the_verifier_alone_lets_it_go_on() -> None:
    """0.2 s for a draft token, 50 ms for the way, 0.1 s for a step: drafts beat asking, not a run."""
    asking = RoundCost(0.2, 0.15)
    running = RoundCost(0.2, 0.15, plain_seconds=0.1)
    acceptances = [0.95] * 8
    assert best_draft_length([0.95] * 8, RoundCost(0.04, 0.15)) > 0
    assert best_draft_length(acceptances, asking) == best_draft_length(acceptances, running) == 0
    policy = taught(0.2, 0.15, 0.1)
    assert policy.limit() == 0 or not policy.keep_drafting(())
    assert policy.declined


def test_a_device_that_is_quicker_drafts() -> None:
    policy = taught(0.02, 0.15, 0.1)
    assert policy.limit() >= 3
    assert policy.keep_drafting(())
    assert not policy.declined


def test_the_way_to_the_verifier_does_not_count_against_a_run() -> None:
    """At 80 ms a draft token and 0.4 s of network, drafts beat asking for each token, but not a verifier 20 ms a token."""
    far = taught(0.08, 0.42, 0.02)
    assert far.limit() == 0 or not far.keep_drafting(())
    asked_only = taught(0.08, 0.42, 0.42)
    assert asked_only.limit() > 0
    assert asked_only.keep_drafting(())


def test_one_token_may_lose_where_four_win() -> None:
    cost = RoundCost(0.001, 0.25, plain_seconds=0.1)
    acceptances = [0.95] * 6
    assert cost.seconds(0) == 0.1
    assert best_draft_length(acceptances[:1], cost) == 0
    assert best_draft_length(acceptances, cost) == 6
    with pytest.raises(ValueError, match="plain_seconds"):
        RoundCost(0.1, 0.1, plain_seconds=0.0)


def test_runs_teach_what_a_plain_token_takes_and_let_hope_return() -> None:
    policy = taught(0.02, 0.15, 0.1, accepted=0)
    assert policy.limit() == 0 or not policy.keep_drafting(())
    assert policy.declined
    rounds = 0
    while policy.declined and rounds < 5000:
        for _ in range(16):
            policy.observe_run(0.1)
        policy.limit()
        policy.keep_drafting(())
        rounds += 1
    assert rounds < 100, "never tries again"


def test_a_new_generation_begins_with_an_open_mind() -> None:
    policy = taught(0.2, 0.15, 0.1)
    policy.limit()
    policy.keep_drafting(())
    assert policy.declined
    assert not policy.fork().declined
