"""Keyed random numbers: fixed for ever, uniform, and independent along every key.

False alarms: each statistical check fails below a p-value of 1e-8, and there are fewer than 40, so together they raise a
false alarm with probability below 1e-6. Seeds are fixed.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sled_speculation.randomness import Purpose, uniform, uniform_by_token

ALARM = 1e-8
PURPOSES = (Purpose.DRAFT, Purpose.ACCEPT, Purpose.RECOVER, Purpose.TARGET)


def series(key, count=40_000):
    return np.array([key(i) for i in range(count)])


KEYS = {
    "by-position": lambda i: uniform(1, i, Purpose.ACCEPT),
    "by-seed": lambda i: uniform(i, 100, Purpose.ACCEPT),
    "by-high-seed-bits": lambda i: uniform(i << 44, 100, Purpose.TARGET),
    "by-round": lambda i: uniform(1, 100, Purpose.DRAFT, i),
    "by-purpose-in-turn": lambda i: uniform(9, i // 4, PURPOSES[i % 4]),
    "by-round-in-turn": lambda i: uniform(9, i // 8, Purpose.DRAFT, i // 8 - i % 8),
}


def test_values_never_change():
    """Replicas of different versions must agree, or a resumed sequence would change its text."""
    assert uniform(0, 0, Purpose.DRAFT) == 0.8193382636014529
    assert uniform(2**64 - 1, 4095, Purpose.TARGET) == 0.34419117426771284
    assert uniform(12345, 17, Purpose.DRAFT, 11) == 0.6072911133790183
    tokens = np.array([0, 1, 151_935])
    assert uniform_by_token(7, 3, Purpose.TARGET, tokens).tolist() == [
        0.3501336250818165,
        0.7465326705679798,
        0.07262473624241982,
    ]


@pytest.mark.parametrize("name", KEYS)
def test_uniform_along_every_key(name):
    values = series(KEYS[name])
    assert values.min() >= 0
    assert values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > ALARM
    counts = np.bincount((values * 256).astype(int), minlength=256)
    assert stats.chisquare(counts).pvalue > ALARM


@pytest.mark.parametrize("name", KEYS)
def test_neighbours_are_independent_along_every_key(name):
    values = series(KEYS[name])
    pairs = (values[:-1] * 16).astype(int) * 16 + (values[1:] * 16).astype(int)
    # Every other pair, so that no value is counted twice.
    assert stats.chisquare(np.bincount(pairs[::2], minlength=256)).pvalue > ALARM


def test_every_bit_is_fair():
    words = np.array([int(uniform(3, i, Purpose.RECOVER) * 2**53) for i in range(40_000)])
    for bit in range(53):
        ones = int((words >> bit & 1).sum())
        assert stats.binomtest(ones, 40_000).pvalue > ALARM / 53


def test_purposes_are_independent_at_the_same_position():
    for first, second in ((Purpose.DRAFT, Purpose.ACCEPT), (Purpose.ACCEPT, Purpose.RECOVER)):
        cells = np.array(
            [
                int(uniform(5, i, first) * 16) * 16 + int(uniform(5, i, second) * 16)
                for i in range(20_000)
            ]
        )
        assert stats.chisquare(np.bincount(cells, minlength=256)).pvalue > ALARM


def test_bonus_is_the_targets_own_sample():
    assert Purpose.BONUS is Purpose.TARGET


def test_by_token_is_uniform_across_tokens_and_across_seeds():
    across_tokens = uniform_by_token(1, 2, Purpose.TARGET, np.arange(100_000))
    across_seeds = np.array(
        [uniform_by_token(seed, 2, Purpose.TARGET, np.array([77]))[0] for seed in range(20_000)]
    )
    for values in (across_tokens, across_seeds):
        assert values.min() > 0
        assert values.max() <= 1
        assert stats.kstest(values, "uniform").pvalue > ALARM


def test_by_token_does_not_depend_on_the_other_tokens():
    everything = uniform_by_token(1, 2, Purpose.TARGET, np.arange(1000))
    some = np.array([999, 3, 500])
    assert np.array_equal(uniform_by_token(1, 2, Purpose.TARGET, some), everything[some])


def test_by_token_is_independent_between_neighbouring_positions():
    tokens = np.arange(50_000)
    here = uniform_by_token(1, 10, Purpose.TARGET, tokens)
    there = uniform_by_token(1, 11, Purpose.TARGET, tokens)
    cells = (here * 15.999).astype(int) * 16 + (there * 15.999).astype(int)
    assert stats.chisquare(np.bincount(cells, minlength=256)).pvalue > ALARM
