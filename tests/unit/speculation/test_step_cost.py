"""The step cost is learnt from steps of any shape: it fits, never falls, forgets, and stays small."""

from __future__ import annotations

import random

import numpy as np
import pytest

from sled_speculation.step_cost import (
    KNOTS,
    StepCost,
    StepShape,
    measurement_shapes,
)
from sled_speculation.step_cost_estimate import StepCostEstimate


def jumpy(shape: StepShape) -> float:
    """A machine where the second token costs a jump and the next fifteen are nearly free."""
    curve = np.interp(shape.tokens, [1, 4, 20, 40, 256], [0.16, 0.26, 0.35, 0.5, 2.6])
    return float(curve) + 0.002 * shape.sequences + 3e-6 * shape.context_tokens


def learnt(noise: float = 0.03, slots: int = 16) -> StepCostEstimate:
    rng = random.Random(4)
    estimate = StepCostEstimate()
    for repetition in range(2):
        for sequences, length in measurement_shapes(slots, 256, 16, 2048):
            shape = StepShape(sequences * length, sequences, sequences * (40 + 400 * repetition))
            estimate.observe(shape, jumpy(shape) * rng.uniform(1 - noise, 1 + noise))
    return estimate


def taught(context_tokens: int, *steps: tuple[int, int, float]) -> StepCost:
    """From twenty times these steps: (tokens, sequences, seconds), each sequence with so much context."""
    estimate = StepCostEstimate()
    for tokens, sequences, seconds in 20 * steps:
        estimate.observe(StepShape(tokens, sequences, context_tokens * sequences), seconds)
    estimate.load(())
    cost = estimate.cost()
    assert cost is not None
    return cost


def test_it_predicts_shapes_between_those_it_has_seen() -> None:
    cost = learnt().cost()
    assert cost is not None
    for tokens, sequences in ((1, 1), (2, 1), (5, 1), (12, 4), (20, 4), (24, 8), (80, 16)):
        shape = StepShape(tokens, sequences, sequences * 200)
        assert cost.seconds(shape) == pytest.approx(jumpy(shape), rel=0.12), shape


def test_it_never_falls_with_more_tokens_and_goes_on_above_the_last_knot() -> None:
    cost = learnt(noise=0.4).cost()
    assert cost is not None
    seconds = cost.by_tokens(np.arange(1, 6000), 4, 400)
    assert (np.diff(seconds) >= 0).all()
    exact = learnt(noise=0.0).cost()
    assert exact is not None
    assert exact.seconds(StepShape(6000, 4, 0)) > 1.3 * exact.seconds(StepShape(4096, 4, 0))


def test_nothing_is_claimed_before_two_token_counts_were_seen() -> None:
    estimate = StepCostEstimate()
    assert estimate.cost() is None
    for _ in range(100):
        estimate.observe(StepShape(8, 8, 100), 0.1)
    assert estimate.cost() is None
    estimate.observe(StepShape(40, 8, 100), 0.2)
    assert estimate.cost() is not None


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_change_of_pace_that_one_shape_shows_holds_for_all(factor: float) -> None:
    estimate = learnt()
    estimate.load(())
    assert estimate.cost() is not None
    for _ in range(600):
        estimate.observe(StepShape(8, 8, 800), factor * jumpy(StepShape(8, 8, 800)))
    cost = estimate.cost()
    assert cost is not None
    for tokens in (8, 40):
        shape = StepShape(tokens, 8, 800)
        assert cost.seconds(shape) == pytest.approx(factor * jumpy(shape), rel=0.15)


def test_a_curve_that_changes_its_shape_is_learnt_anew() -> None:
    estimate = learnt()
    rng = random.Random(2)
    cost = None
    for _ in range(3000):
        shape = StepShape(rng.choice([4, 8, 16, 32, 64]), 4, 400)
        estimate.observe(shape, 0.05 + 0.01 * shape.tokens)
        cost = estimate.cost()
    assert cost is not None
    for tokens in (4, 16, 64):
        expected = 0.05 + 0.01 * tokens
        assert cost.seconds(StepShape(tokens, 4, 400)) == pytest.approx(expected, rel=0.15)


def test_one_outlier_moves_nothing_far() -> None:
    estimate = learnt()
    shape = StepShape(8, 8, 800)
    estimate.observe(shape, 1000.0)
    estimate.load(())
    cost = estimate.cost()
    assert cost is not None
    assert cost.seconds(shape) < 3 * jumpy(shape)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_what_is_no_time_is_ignored(seconds: float) -> None:
    estimate = StepCostEstimate()
    estimate.observe(StepShape(1, 1, 0), seconds)
    estimate.observe(StepShape(0, 0, 0), 1.0)
    estimate.observe(StepShape(9, 1, 0), 1.0)
    assert estimate.cost() is None


def test_memory_is_bounded_by_shapes() -> None:
    estimate = StepCostEstimate()
    rng = random.Random(1)
    for _ in range(5000):
        sequences = rng.randrange(1, 65)
        estimate.observe(StepShape(sequences * rng.randrange(1, 18), sequences, 0), 0.1)
    assert len(estimate._cells) <= (len(KNOTS) + 1) * 8 * 2


def test_the_shapes_to_measure_fit_a_step_and_cover_every_load() -> None:
    shapes = list(measurement_shapes(12, 64, 16, 512))
    assert all(sequences * length <= 64 and sequences <= 12 for sequences, length in shapes)
    assert {sequences for sequences, _ in shapes} == {1, 2, 4, 8, 12}
    assert len(set(shapes)) == len(shapes)
    assert shapes[0] == (1, 1)


def test_a_cost_by_hand() -> None:
    cost = StepCost(np.array([0.01 + 0.001 * knot for knot in KNOTS]), 0.002, 1e-6)
    assert cost.seconds(StepShape(10, 2, 1000)) == pytest.approx(0.02 + 0.004 + 0.001)
    assert cost.seconds(StepShape(8192, 1, 0)) == pytest.approx(0.01 + 8.192 + 0.002)
    assert cost.seconds(StepShape(0, 0, 0)) == 0.0


def test_a_few_steps_correct_what_was_carried_on_from_afar() -> None:
    def true(tokens: int) -> float:
        return 0.2 + 0.001 * tokens + (0.02 * (tokens - 40) if tokens > 40 else 0)

    estimate = StepCostEstimate()
    for _ in range(300):
        for sequences in (1, 2, 4, 8):
            for length in (1, 2, 5):
                tokens = sequences * length
                estimate.observe(StepShape(tokens, sequences, 50 * sequences), true(tokens))
    far = StepShape(144, 16, 800)
    before = estimate.cost()
    assert before is not None
    assert before.seconds(far) < 0.5 * true(144)
    for _ in range(6):
        estimate.observe(far, true(144))
        estimate.cost()
    after = estimate.cost()
    assert after is not None
    assert after.seconds(far) > 0.7 * true(144)


def test_beyond_what_was_seen_it_does_not_turn_flat_by_chance() -> None:
    for seed in range(20):
        rng = random.Random(seed)
        estimate = StepCostEstimate()
        for tokens in (1, 2, 4, 8, 16, 32, 48, 64):
            # All of one shape are off alike, as on a machine with other work.
            factor = rng.uniform(0.85, 1.15)
            for _ in range(20):
                estimate.observe(StepShape(tokens, 8, 0), factor * (0.1 + 0.01 * tokens))
        cost = estimate.cost()
        assert cost is not None
        rise = cost.seconds(StepShape(256, 8, 0)) - cost.seconds(StepShape(64, 8, 0))
        assert rise > 0.6 * 0.01 * 192


def test_a_machine_that_is_flat_stays_flat() -> None:
    estimate = StepCostEstimate()
    for _ in range(20):
        for tokens in (1, 2, 4, 8, 16, 32, 64):
            estimate.observe(StepShape(tokens, 1, 0), 0.02)
    cost = estimate.cost()
    assert cost is not None
    assert cost.seconds(StepShape(256, 1, 0)) < 0.022


def test_what_the_present_steps_cost_is_known_after_a_few_of_them() -> None:
    """A load that comes after hours of others, on an engine with slow steps."""
    estimate = StepCostEstimate()
    for _ in range(5000):
        for tokens in (1, 2, 4, 8, 16, 32):
            estimate.observe(StepShape(tokens, tokens, 0), 0.3 + 0.01 * tokens)
    for _ in range(6):
        estimate.observe(StepShape(64, 64, 6400), 2.6)
        estimate.observe(StepShape(96, 64, 6400), 4.1)
    cost = estimate.cost()
    assert cost is not None
    plain, with_drafts = cost.by_tokens(np.array([64, 96]), 64, 6400)
    assert with_drafts / plain == pytest.approx(4.1 / 2.6, rel=0.05)


def test_each_load_has_what_its_own_steps_took_where_one_curve_for_all_is_off() -> None:
    """Four tokens of one sequence take longer than four sequences of one token each."""
    cost = taught(
        40,
        (4, 1, 0.42),
        (5, 1, 0.50),
        (9, 1, 0.66),
        (17, 2, 1.08),
        (27, 3, 1.75),
        (4, 4, 0.30),
        (16, 4, 1.16),
    )
    plain, with_drafts = cost.by_tokens(np.array([4, 16]), 4, 160)
    assert with_drafts / plain == pytest.approx(1.16 / 0.30, rel=0.05)
    assert cost.seconds(StepShape(4, 1, 40)) > 1.1 * cost.seconds(StepShape(4, 4, 160))


def test_the_jump_between_no_drafts_and_the_first_is_seen() -> None:
    """A full load fills what the machine computes at once; one draft token more begins anew."""
    cost = taught(
        60,
        (16, 16, 0.8),
        (32, 32, 1.0),
        (64, 64, 1.2),
        (71, 64, 1.6),
        (128, 64, 2.4),
    )
    plain, few, some = cost.by_tokens(np.array([64, 66, 71]), 64, 64 * 60)
    assert plain == pytest.approx(1.2, rel=0.05)
    assert few > 1.35
    assert some == pytest.approx(1.6, rel=0.05)
    assert cost.seconds(StepShape(60, 60, 3600)) == pytest.approx(1.2, rel=0.08)


def test_one_slow_step_of_nearly_the_same_size_lifts_no_other() -> None:
    """62 of 64 sequences once took longer; what all 64 take without drafts is known from many steps."""
    estimate = StepCostEstimate()
    estimate.load(
        (StepShape(n * k, n, 0), 0.1 + 0.02 * n * k) for n in (8, 32, 64) for k in (1, 2, 5)
    )
    for _ in range(20):
        estimate.observe(StepShape(64, 64, 0), 1.38)
    before = estimate.cost()
    estimate.observe(StepShape(62, 62, 0), 2.0)
    for _ in range(3):
        estimate.observe(StepShape(64, 64, 0), 1.38)
    after = estimate.cost()
    assert before is not None
    assert after is not None
    plain = StepShape(64, 64, 0)
    assert after.seconds(plain) == pytest.approx(before.seconds(plain), rel=0.06)
