"""The largest entries of a row, against a plain sort."""

from __future__ import annotations

import numpy as np
import pytest

from sled_protocol.selection import largest_ids


def by_sorting(values, count):
    order = sorted(range(values.size), key=lambda i: (-values[i], i))
    return sorted(order[:count])


@pytest.mark.parametrize("size", [1, 5, 63, 64, 65, 1000, 5000])
@pytest.mark.parametrize("levels", [1, 3, 50, 10**9])
def test_equals_a_full_sort_with_ties_to_the_lowest_id(size, levels):
    rng = np.random.default_rng(size * 31 + levels)
    values = rng.integers(0, levels, size).astype(np.float64)
    for count in {1, 2, 7, size // 2, size - 1, size}:
        assert largest_ids(values, count).tolist() == by_sorting(values, max(count, 0))


def test_bounds_of_the_count():
    values = np.array([3.0, 1.0, 2.0])
    assert largest_ids(values, 0).size == 0
    assert largest_ids(values, 99).tolist() == [0, 1, 2]


def test_minus_infinity_comes_last():
    values = np.full(1000, -np.inf)
    values[[5, 700]] = [1.0, 2.0]
    assert largest_ids(values, 2).tolist() == [5, 700]
    assert largest_ids(values, 3).tolist() == [0, 5, 700]
