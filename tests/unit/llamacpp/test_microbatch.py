"""The split into forward passes, without a model."""

from __future__ import annotations

import random

import pytest

from sled_llamacpp.microbatch import Call, Rules, plan_calls


def fed(calls: list[Call]) -> dict[int, list[int]]:
    """Tokens that each slot gets, call by call."""
    found: dict[int, list[int]] = {}
    for call in calls:
        for offset, count in enumerate(call.fed):
            if count:
                found.setdefault(call.first_slot + offset, []).append(count)
    return found


def cost(calls: list[Call], rules: Rules) -> int:
    return sum(rules.call_cost_rows + call.rows * len(call.fed) for call in calls)


def test_nothing_to_do_is_no_call() -> None:
    assert plan_calls({}, Rules()) == []
    assert plan_calls({3: 0}, Rules()) == []


def test_a_lone_token_gets_a_companion() -> None:
    assert plan_calls({4: 1}, Rules()) == [Call(4, 2, (1,))]


def test_a_lone_token_stays_alone_where_exactness_does_not_matter() -> None:
    assert plan_calls({4: 1}, Rules(min_rows=1)) == [Call(4, 1, (1,))]


def test_neighbours_of_equal_length_share_a_call() -> None:
    assert plan_calls({2: 5, 3: 5, 4: 5}, Rules()) == [Call(2, 5, (5, 5, 5))]


def test_nearly_equal_lengths_share_a_call_with_companions() -> None:
    assert plan_calls({0: 5, 1: 3, 2: 4}, Rules(call_cost_rows=6)) == [Call(0, 5, (5, 3, 4))]


def test_companions_are_not_worth_more_than_a_call() -> None:
    calls = plan_calls({0: 40, 1: 2}, Rules(call_cost_rows=6))
    assert len(calls) == 2
    assert sum(call.rows * len(call.fed) for call in calls) == 42


def test_without_a_price_of_calls_there_is_no_companion() -> None:
    calls = plan_calls({0: 5, 1: 3, 3: 4}, Rules(call_cost_rows=0, min_rows=1))
    assert sum(call.rows * len(call.fed) for call in calls) == 12


def test_an_idle_slot_between_two_busy_ones_is_bridged_when_cheap() -> None:
    assert plan_calls({0: 2, 2: 2}, Rules(call_cost_rows=6)) == [Call(0, 2, (2, 0, 2))]
    assert plan_calls({0: 8, 2: 8}, Rules(call_cost_rows=6)) == [Call(0, 8, (8,)), Call(2, 8, (8,))]


def test_distant_slots_are_not_bridged() -> None:
    assert plan_calls({0: 1, 15: 1}, Rules()) == [Call(0, 2, (1,)), Call(15, 2, (1,))]


def test_a_long_chunk_is_cut_at_the_limit() -> None:
    calls = plan_calls({0: 100}, Rules(max_rows_per_slot=48))
    assert [call.rows for call in calls] == [48, 48, 4]


def test_a_long_chunk_does_not_drag_short_drafts_along() -> None:
    calls = plan_calls({0: 5, 1: 48, 2: 5}, Rules(call_cost_rows=6))
    assert calls[0] == Call(0, 5, (5, 5, 5))
    assert calls[1] == Call(1, 43, (43,))


@pytest.mark.parametrize("seed", range(200))
def test_every_plan_keeps_the_rules(seed: int) -> None:
    pick = random.Random(seed)
    rules = Rules(
        max_rows_per_slot=pick.choice([4, 17, 48]),
        max_rows=pick.choice([48, 64, 256]),
        min_rows=pick.choice([1, 2]),
        call_cost_rows=pick.choice([0, 3, 6, 50]),
    )
    slots = pick.sample(range(20), pick.randint(1, 16))
    tokens = {slot: pick.choice([1, 1, 2, 5, 9, 17, 48, 130]) for slot in slots}
    calls = plan_calls(tokens, rules)
    assert {slot: sum(counts) for slot, counts in fed(calls).items()} == tokens
    for call in calls:
        assert 1 <= call.rows <= rules.max_rows_per_slot
        assert rules.min_rows <= call.rows * len(call.fed) <= rules.max_rows
        assert all(0 <= count <= call.rows for count in call.fed)
        assert min(tokens) <= call.first_slot
        assert call.first_slot + len(call.fed) - 1 <= max(tokens)


@pytest.mark.parametrize("seed", range(50))
def test_a_plan_is_never_dearer_than_one_call_per_slot(seed: int) -> None:
    pick = random.Random(seed)
    rules = Rules(min_rows=1)
    tokens = {slot: pick.randint(1, 16) for slot in pick.sample(range(16), pick.randint(1, 16))}
    alone = [call for slot, n in tokens.items() for call in plan_calls({slot: n}, rules)]
    assert cost(plan_calls(tokens, rules), rules) <= cost(alone, rules)


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_rows": 0},
        {"max_rows_per_slot": 1},
        {"max_rows": 47},
        {"call_cost_rows": -1},
    ],
)
def test_impossible_rules_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"rows"):
        Rules(**wrong)
