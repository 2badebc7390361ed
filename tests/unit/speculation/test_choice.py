"""Drawing one token: the race against its definition, its coupling, and inverse transform at its edges."""

from __future__ import annotations

import numpy as np
import pytest

from sled_speculation.choice import inverse_transform, target_token
from sled_speculation.randomness import Purpose, uniform_by_token


def by_definition(probs, seed, position):
    tokens = np.flatnonzero(probs)
    uniforms = uniform_by_token(seed, position, Purpose.TARGET, tokens)
    return int(tokens[np.argmin(-np.log1p(-uniforms) / probs[tokens])])


@pytest.mark.parametrize("size", [1, 2, 300, 600, 16_384, 16_385, 60_000])
def test_race_equals_its_definition(size):
    """Rows below, at and above the sizes at which the shortcuts set in, dense and with most tokens excluded."""
    rng = np.random.default_rng(size)
    for trial in range(30):
        probs = rng.dirichlet(np.full(size, 0.05 if size > 1 else 1.0))
        if trial % 3 == 0:
            probs[rng.random(size) < 0.9] = 0
            probs[rng.integers(size)] += 1e-3
            probs /= probs.sum()
        assert target_token(probs, trial, 5) == by_definition(probs, trial, 5)


def test_a_token_without_probability_never_wins():
    probs = np.zeros(40_000)
    probs[39_999] = 1.0
    assert {target_token(probs, seed, 0) for seed in range(50)} == {39_999}


def test_numbers_too_small_to_divide_by_are_harmless():
    probs = np.full(1000, 5e-324)
    probs[10] = 1.0
    assert {target_token(probs, seed, 0) for seed in range(50)} == {10}


def test_similar_distributions_pick_the_same_token_as_often_as_the_theorem_says():
    """Agreement is at least (1 - d) / (1 + d) (Daliri, Musco and Suresh 2024, theorem 1) and beats inverse transform.

    4,000 independent trials; a rate 0.04 below its expectation has probability below 3e-6 (Hoeffding), the false alarm.
    """
    rng = np.random.default_rng(3)
    raced = inverted = 0
    bounds = []
    for seed in range(4000):
        p = rng.dirichlet(np.full(200, 0.3))
        q = p * np.exp(rng.normal(0, 0.35, 200))
        q /= q.sum()
        distance = np.abs(p - q).sum() / 2
        bounds.append((1 - distance) / (1 + distance))
        raced += target_token(p, seed, 1) == target_token(q, seed, 1)
        u = rng.random()
        inverted += inverse_transform(p, u) == inverse_transform(q, u)
    assert raced / 4000 > np.mean(bounds) - 0.04
    assert raced > inverted


def test_inverse_transform_follows_the_cumulative_sum():
    weights = np.array([0.0, 2.0, 0.0, 1.0, 1.0, 0.0])
    chosen = [inverse_transform(weights, u) for u in (0.0, 0.49, 0.5, 0.74, 0.75, 1 - 2.0**-53)]
    assert chosen == [1, 1, 3, 3, 4, 4]


def test_inverse_transform_survives_rounding_up_to_the_sum():
    weights = np.array([0.1] * 10 + [0.0])
    assert inverse_transform(weights, np.nextafter(1.0, 0.0)) == 9
    assert inverse_transform(np.array([3e-324, 0.0]), np.nextafter(1.0, 0.0)) == 0
