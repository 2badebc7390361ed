from __future__ import annotations

from typing import Any

import pytest

from sled_operator.handlers import Wishes

KEY = ("EdgeDrafter", "default", "fleet")
META: dict[str, Any] = {"uid": "u", "generation": 3, "resourceVersion": "10"}


def test_what_is_seen_for_the_first_time_is_a_wish() -> None:
    assert Wishes().changed(None, KEY, META)


def test_a_status_is_none() -> None:
    wishes = Wishes()
    wishes.changed("ADDED", KEY, META)
    assert not wishes.changed("MODIFIED", KEY, {**META, "resourceVersion": "11"})


@pytest.mark.parametrize(
    "news",
    [
        {"generation": 4},
        {"uid": "another"},
        {"deletionTimestamp": "2026-01-01T00:00:00Z"},
        {"labels": {"a": "b"}},
        {"annotations": {"a": "b"}},
    ],
)
def test_a_user_is_heard(news: dict[str, Any]) -> None:
    wishes = Wishes()
    wishes.changed("ADDED", KEY, META)
    assert wishes.changed("MODIFIED", KEY, {**META, **news})
    assert not wishes.changed("MODIFIED", KEY, {**META, **news})


def test_one_that_comes_back_is_new() -> None:
    wishes = Wishes()
    wishes.changed("ADDED", KEY, META)
    assert wishes.changed("DELETED", KEY, META)
    assert wishes.changed("ADDED", KEY, META)
