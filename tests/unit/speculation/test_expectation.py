"""Closed forms against brute force, and the goodput model where its answer is known."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from sled_speculation.expectation import (
    RoundCost,
    best_draft_length,
    expected_output_tokens,
    expected_output_tokens_by_position,
    goodput_tokens_per_second,
)


@pytest.mark.parametrize("acceptance", [0.0, 0.2, 0.79, 0.99])
@pytest.mark.parametrize("draft_tokens", [0, 1, 4, 16])
def test_equals_the_closed_form(acceptance, draft_tokens):
    closed = (1 - acceptance ** (draft_tokens + 1)) / (1 - acceptance)
    assert math.isclose(expected_output_tokens(acceptance, draft_tokens), closed)


def test_certain_acceptance_gives_all_and_the_bonus():
    assert expected_output_tokens(1.0, 7) == 8


def test_by_position_equals_the_sum_over_all_outcomes():
    rates = [0.9, 0.4, 0.7]
    expected = 0.0
    for outcome in itertools.product((True, False), repeat=3):
        chance = math.prod(r if ok else 1 - r for r, ok in zip(rates, outcome, strict=True))
        kept = next((i for i, ok in enumerate(outcome) if not ok), 3)
        expected += chance * (kept + 1)
    assert math.isclose(expected_output_tokens_by_position(rates), expected)


@pytest.mark.parametrize(("acceptance", "draft_tokens"), [(-0.1, 1), (1.1, 1), (0.5, -1)])
def test_impossible_arguments_are_refused(acceptance, draft_tokens):
    with pytest.raises(ValueError, match="allowed"):
        expected_output_tokens(acceptance, draft_tokens)


@pytest.mark.parametrize(
    "values", [(-1, 1, 0), (1, 0, 0), (1, -1, 0), (1, 1, -1), (math.nan, 1, 0), (1, math.inf, 0)]
)
def test_impossible_costs_are_refused(values):
    with pytest.raises(ValueError, match="allowed"):
        RoundCost(*values)


def test_goodput_by_hand():
    cost = RoundCost(0.01, 0.06, 0.005)
    assert math.isclose(cost.seconds(4), 0.12)
    assert math.isclose(goodput_tokens_per_second([0.5, 0.5, 0, 0], cost), 1.75 / 0.12)
    assert math.isclose(goodput_tokens_per_second([], cost), 1 / 0.06)


def test_best_length_equals_brute_force_and_prefers_the_shortest():
    rng = random.Random(1)
    for _ in range(300):
        rates = [rng.random() for _ in range(rng.randrange(17))]
        cost = RoundCost(rng.random() / 10, 0.001 + rng.random() / 5, rng.random() / 50)
        speeds = [goodput_tokens_per_second(rates[:k], cost) for k in range(len(rates) + 1)]
        assert math.isclose(speeds[best_draft_length(rates, cost)], max(speeds))
    assert best_draft_length([0.0] * 8, RoundCost(0.0, 0.1)) == 0
    assert best_draft_length([1.0] * 8, RoundCost(0.0, 0.1)) == 8


def test_drafting_never_pays_when_a_draft_token_costs_as_much_as_a_plain_round():
    assert best_draft_length([0.99] * 16, RoundCost(0.05, 0.1, 0.05)) == 0
