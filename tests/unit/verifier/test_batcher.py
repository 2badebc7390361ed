"""The batcher's laws, on values alone."""

from __future__ import annotations

import random

import pytest

from sled_verifier.batcher import Held, Share, StepBudget, Work, plan_step, urgency

BUDGET = StepBudget(step_tokens=64, prefill_tokens=16, prefill_reserve_tokens=8)


def a_round(key: int, tokens: int = 5, arrived: float = 0.0, deadline: float = 10.0) -> Work:
    return Work(key, 0, tokens, arrived, deadline)


def a_prompt(key: int, backlog: int, arrived: float = 0.0, round_tokens: int = 0) -> Work:
    return Work(key, backlog, round_tokens, arrived, arrived + 10.0)


def test_nothing_to_do() -> None:
    plan = plan_step([], BUDGET, decoding=False)
    assert plan.shares == plan.held == ()


def test_rounds_come_before_prompts_even_older_ones() -> None:
    plan = plan_step([a_prompt(1, 1000, arrived=-9), a_round(2)], BUDGET, decoding=False)
    assert plan.shares == (Share(2, 0, 5), Share(1, 16, 0))


def test_without_rounds_a_prompt_takes_the_whole_step() -> None:
    assert plan_step([a_prompt(1, 1000)], BUDGET, decoding=False).shares == (Share(1, 64, 0),)


def test_while_devices_decode_a_prompt_keeps_to_its_chunk() -> None:
    assert plan_step([a_prompt(1, 1000)], BUDGET, decoding=True).shares == (Share(1, 16, 0),)


def test_prompts_keep_moving_when_rounds_could_fill_the_step() -> None:
    works = [a_round(key, 8) for key in range(20)] + [a_prompt(99, 1000)]
    plan = plan_step(works, BUDGET, decoding=True)
    assert plan.shares[-1] == Share(99, 8, 0)
    assert len(plan.shares) == 8
    assert dict(plan.held)[19] is Held.STEP_FULL


def test_the_reserve_is_not_kept_for_prompts_that_need_less() -> None:
    works = [a_round(key, 6) for key in range(20)] + [a_prompt(99, 2)]
    plan = plan_step(works, BUDGET, decoding=True)
    assert len([share for share in plan.shares if share.round_tokens]) == 10


def test_a_prompt_that_ends_in_this_step_takes_its_round_along() -> None:
    work = a_prompt(1, 10, round_tokens=6)
    assert plan_step([work], BUDGET, decoding=True).shares == (Share(1, 10, 6),)
    work = a_prompt(1, 11, round_tokens=6)
    assert plan_step([work], BUDGET, decoding=True).shares == (Share(1, 11, 0),)


def test_who_is_held_back_is_told_why() -> None:
    plan = plan_step([a_prompt(1, 100), a_prompt(2, 100, arrived=1)], BUDGET, decoding=True)
    assert plan.held == ((2, Held.PREFILL_SHARE_USED),)


def test_earliest_deadline_first() -> None:
    works = [a_round(1, 60, deadline=9), a_round(2, 60, deadline=3), a_round(3, 60, deadline=6)]
    assert [share.key for share in plan_step(works, BUDGET, decoding=True).shares] == [2]


def test_a_short_round_passes_a_long_one_that_does_not_fit() -> None:
    works = [a_round(1, 40, deadline=1), a_round(2, 40, deadline=2), a_round(3, 20, deadline=3)]
    plan = plan_step(works, BUDGET, decoding=True)
    assert [share.key for share in plan.shares] == [1, 3]


@pytest.mark.parametrize("patience", [1.0, 10.0, 100.0])
def test_no_stream_of_short_deadlines_starves_a_long_one(patience: float) -> None:
    """The step holds one round; every second a newcomer with a deadline of 0.1 seconds arrives."""
    waiting = [a_round(0, 60, arrived=0.0, deadline=patience)]
    for second in range(1000):
        waiting.append(a_round(second + 1, 60, arrived=float(second), deadline=second + 0.1))
        served = plan_step(waiting, BUDGET, decoding=True).shares[0].key
        waiting = [work for work in waiting if work.key != served]
        if served == 0:
            assert second <= patience + 1
            return
    pytest.fail("the long deadline was never served")


def test_a_short_prompt_passes_a_long_one_but_not_for_ever() -> None:
    long, short = a_prompt(1, 1000), a_prompt(2, 20, arrived=1)
    assert plan_step([long, short], BUDGET, decoding=True).shares[0].key == 2
    late = a_prompt(2, 20, arrived=5)
    assert plan_step([long, late], BUDGET, decoding=True).shares[0].key == 1


def test_urgency_does_not_depend_on_the_time_of_asking() -> None:
    assert urgency(a_round(1, arrived=2.0, deadline=5.0)) == 7.0


def test_random_steps_keep_every_bound() -> None:
    rng = random.Random(4)
    for _ in range(2000):
        step = rng.randrange(34, 300)
        budget = StepBudget(step, rng.randrange(1, 100), rng.randrange(0, step - 17))
        works = []
        for key in range(rng.randrange(0, 40)):
            arrived = rng.random() * 100
            deadline = arrived + rng.random() * 10
            backlog = rng.choice([0, 0, 1, 5, 400])
            round_tokens = rng.randrange(1, 18) if not backlog or rng.random() < 0.5 else 0
            works.append(Work(key, backlog, round_tokens, arrived, deadline))
        decoding = rng.random() < 0.5
        plan = plan_step(works, budget, decoding=decoding)
        by_key = {work.key: work for work in works}
        total = prefill = 0
        for share in plan.shares:
            work = by_key.pop(share.key)
            assert share.backlog_tokens <= work.backlog
            assert share.backlog_tokens > 0 or share.round_tokens
            if share.round_tokens:
                assert work.round_tokens > 0
                assert share.backlog_tokens == work.backlog
            total += share.backlog_tokens + share.round_tokens
            prefill += share.backlog_tokens
        assert {key for key, _ in plan.held} == by_key.keys()
        assert total <= budget.step_tokens
        if decoding:
            assert prefill <= budget.prefill_tokens
        if any(not work.backlog for work in works):
            assert any(share.round_tokens for share in plan.shares)
        if prefill == 0 and any(work.backlog for work in works):
            assert budget.prefill_reserve_tokens == 0
