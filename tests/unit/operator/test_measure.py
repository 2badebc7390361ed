from __future__ import annotations

from sled_operator.measure import Ledger, quality

PI = ("small", "pi5")


def test_gains_add_up_over_replicas_and_restarts() -> None:
    ledger = Ledger()
    ledger.take("a", {PI: (10, 40, 20, 4000)})
    ledger.take("b", {PI: (1, 4, 2, 400)})
    ledger.take("a", {PI: (15, 60, 30, 6000)})
    ledger.take("a", {PI: (2, 8, 4, 800)})
    assert ledger.totals[PI] == (18, 72, 36, 7200)
    assert ledger.measured()[PI].draft_tokens == 72


def test_a_forgotten_replica_counts_anew_and_nothing_is_lost() -> None:
    ledger = Ledger()
    ledger.take("a", {PI: (10, 40, 20, 4000)})
    ledger.forget(["a"])
    ledger.take("a", {PI: (10, 40, 20, 4000)})
    assert ledger.totals[PI] == (20, 80, 40, 8000)


def test_quality_is_what_happened_since_and_speed_is_relative() -> None:
    since = {("old", "pi5"): (10, 100, 50, 10_000), ("new", "pi5"): (0, 0, 0, 0)}
    now = {("old", "pi5"): (99, 900, 50, 90_000), ("new", "pi5"): (10, 100, 80, 20_000)}
    seen = quality(since, now, {"new"}, {"old"})
    assert (seen.acceptance_permille, seen.speed_permille) == (800, 500)


def test_nothing_drafted_means_not_known() -> None:
    seen = quality({}, {}, {"new"}, {"old"})
    assert (seen.acceptance_permille, seen.speed_permille) == (None, None)
