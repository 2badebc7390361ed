from __future__ import annotations

import pytest

from sled_cli.up.restarts import RestartPolicy

POLICY = RestartPolicy(
    first_delay_seconds=1, factor=3, longest_delay_seconds=10, most_deaths=5, stable_seconds=60
)


def test_delays_grow_to_a_bound_and_end() -> None:
    assert [POLICY.delay_seconds(deaths, 1) for deaths in range(1, 7)] == [1, 3, 9, 10, None, None]


def test_a_refused_configuration_is_not_tried_again() -> None:
    assert POLICY.delay_seconds(1, 2) is None


@pytest.mark.parametrize(("ready_seconds", "deaths"), [(0.0, 4), (59.9, 4), (60.0, 1)])
def test_a_stable_life_makes_up_for_earlier_deaths(ready_seconds: float, deaths: int) -> None:
    assert POLICY.deaths_in_a_row(3, ready_seconds) == deaths
