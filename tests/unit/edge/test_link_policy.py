"""The pure parts of the link: where to connect, how long to wait, what a refusal calls for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sled_edge.link import RoundDraft
from sled_edge.link_backoff import SLOW_REASONS, LinkTiming, ReconnectPlan, jittered
from sled_edge.link_frames import reason_name, verdict_problem
from sled_edge.link_retry import Reaction, RetryBudget, reaction_to
from sled_protocol.distribution import DraftDistribution
from sled_protocol.v1 import verifier_pb2 as pb

TIMING = LinkTiming()


def _half() -> float:
    return 0.5


def test_backoff_grows_to_its_cap_and_is_jittered() -> None:
    low = [jittered(n, 0.1, 5.0, lambda: 0.0) for n in range(12)]
    high = [jittered(n, 0.1, 5.0, lambda: 1.0) for n in range(12)]
    assert low[0] == 0.05
    assert high[0] == 0.1
    assert high[-1] == 5.0
    assert all(2 * a == b for a, b in zip(low, high, strict=True))
    assert low == sorted(low)
    assert jittered(10_000, 0.1, 5.0, lambda: 1.0) == 5.0


def test_a_pass_over_the_endpoints_has_no_pauses_and_passes_have_ever_longer_ones() -> None:
    plan = ReconnectPlan(3, TIMING, _half)
    tried, pauses = [], []
    for _ in range(9):
        tried.append(plan.endpoint())
        pauses.append(plan.failed("unavailable"))
    assert tried == [0, 1, 2] * 3
    assert [pause > 0 for pause in pauses] == [False, False, True] * 3
    assert pauses[2] < pauses[5] < pauses[8]


def test_the_endpoint_that_was_left_is_tried_last() -> None:
    plan = ReconnectPlan(3, TIMING, _half)
    plan.connected()
    assert plan.endpoint() == 1
    assert plan.left(lived_seconds=TIMING.stable_seconds) == 0.0


def test_a_verifier_that_dies_at_once_is_not_stormed() -> None:
    plan = ReconnectPlan(1, TIMING, _half)
    pauses = []
    for _ in range(6):
        plan.connected()
        pauses.append(plan.left(lived_seconds=0.1))
    assert all(a < b for a, b in itertools.pairwise(pauses))
    plan.connected()
    assert plan.left(lived_seconds=TIMING.stable_seconds) == 0.0
    assert plan.failed("unavailable") == pauses[0]


@pytest.mark.parametrize("reason", sorted(SLOW_REASONS))
def test_what_only_a_person_can_end_is_retried_slowly(reason: str) -> None:
    plan = ReconnectPlan(3, TIMING, _half)
    assert plan.failed(reason) >= TIMING.slow_seconds / 2


def test_deadlines_grow_with_what_must_be_read_up_to_the_wires_limit() -> None:
    assert TIMING.deadline_seconds(0) == 10.0
    assert TIMING.deadline_seconds(100) == 20.0
    assert TIMING.deadline_seconds(1_000_000) == 120.0


@pytest.mark.parametrize(
    ("reason", "reaction"),
    [
        ("unknown_sequence", Reaction.REOPEN),
        ("stale_prefix", Reaction.REOPEN),
        ("duplicate_sequence", Reaction.REOPEN),
        ("internal", Reaction.REOPEN),
        ("queue_full", Reaction.RESEND),
        ("deadline_exceeded", Reaction.RESEND),
        ("too_many_sequences", Reaction.RESEND),
        ("draining", Reaction.MOVE),
        ("malformed", Reaction.GIVE_UP),
        ("unknown_model", Reaction.GIVE_UP),
        ("context_full", Reaction.GIVE_UP),
        ("prompt_too_long", Reaction.GIVE_UP),
        ("invalid_sampling", Reaction.GIVE_UP),
        ("draft_too_long", Reaction.GIVE_UP),
        ("unspecified", Reaction.GIVE_UP),
        ("something of a later revision", Reaction.GIVE_UP),
    ],
)
def test_what_a_refusal_calls_for(reason: str, reaction: Reaction) -> None:
    assert reaction_to(reason) is reaction


def test_every_reason_of_the_wire_has_a_name() -> None:
    names = {reason_name(number) for number in pb.RefusalReason.values()}
    assert {"queue_full", "tokenizer_mismatch", "unspecified"} <= names
    assert len(names) == len(pb.RefusalReason.values())
    assert reason_name(999) == "unspecified"


def test_a_budget_is_used_up() -> None:
    budget = RetryBudget(TIMING, _half)
    reopens = [budget.reopen() for _ in range(TIMING.max_reopens + 2)]
    assert reopens[0] == 0.0
    assert reopens[-2:] == [None, None]
    assert None not in reopens[: TIMING.max_reopens]
    resends = [budget.resend(0.0) for _ in range(TIMING.max_resends + 1)]
    assert resends[-1] is None
    assert None not in resends[:-1]


def test_a_busy_verifiers_wish_is_kept_up_to_the_cap() -> None:
    assert (RetryBudget(TIMING, _half).resend(1.5) or 0) >= 1.5
    assert (RetryBudget(TIMING, _half).resend(3600.0) or 0) <= 1.1 * TIMING.backoff_cap_seconds


def _distribution(entries: int) -> DraftDistribution:
    return DraftDistribution(np.arange(entries, dtype=np.uint32), np.full(entries, 255, np.uint8))


def test_a_draft_is_shortened_to_a_replicas_limits() -> None:
    plain = RoundDraft(0, 1, (1, 2, 3))
    assert plain.shortened(16, 64) is plain
    assert plain.shortened(2, 64).tokens == (1, 2)
    assert plain.shortened(0, 64).tokens == ()
    sampled = RoundDraft(0, 1, (0, 1, 2), (_distribution(3), _distribution(9), _distribution(3)))
    assert sampled.shortened(16, 9) is sampled
    cut = sampled.shortened(16, 8)
    assert cut.tokens == (0,)
    assert len(cut.distributions) == 1


@pytest.mark.parametrize(
    ("verdict", "says"),
    [
        (pb.Verdict(accepted=2, verified=3, next_token=5), ""),
        (pb.Verdict(accepted=0, verified=0, next_token=5), ""),
        (pb.Verdict(accepted=0, verified=4, next_token=5), "looked at 4 of 3"),
        (pb.Verdict(accepted=3, verified=2, next_token=5), "accepts 3 of 2"),
        (pb.Verdict(accepted=3, verified=3, next_token=64), "outside the vocabulary"),
    ],
)
def test_a_verdict_that_cannot_be_one(verdict: pb.Verdict, says: str) -> None:
    problem = verdict_problem(verdict, RoundDraft(0, 1, (1, 2, 3)), 64)
    assert (says in problem) if says else problem == ""
