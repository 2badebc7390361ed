from __future__ import annotations

from sled_operator.measure import Counted, Counts, Ledger, quality

PI = Counted("small", "pi5")


def of(revision: str, device_class: str = "pi5") -> Counted:
    return Counted("small", device_class, revision)


def test_gains_add_up_over_replicas_and_restarts() -> None:
    ledger = Ledger()
    ledger.take("a", {PI: (10, 40, 20, 4000)})
    ledger.take("b", {PI: (1, 4, 2, 400)})
    ledger.take("a", {PI: (15, 60, 30, 6000)})
    ledger.take("a", {PI: (2, 8, 4, 800)})
    assert ledger.totals[PI] == (18, 72, 36, 7200)
    assert ledger.measured()["small", "pi5"].draft_tokens == 72


def test_a_forgotten_replica_counts_anew_and_nothing_is_lost() -> None:
    ledger = Ledger()
    ledger.take("a", {PI: (10, 40, 20, 4000)})
    ledger.forget(["a"])
    ledger.take("a", {PI: (10, 40, 20, 4000)})
    assert ledger.totals[PI] == (20, 80, 40, 8000)


def test_prediction_takes_all_revisions_together() -> None:
    ledger = Ledger()
    ledger.take("a", {of("r1"): (10, 40, 20, 4000), of("r2"): (1, 4, 4, 100)})
    assert ledger.measured()["small", "pi5"].accepted_tokens == 24


def test_two_revisions_of_one_draft_model_are_told_apart() -> None:
    since: dict[Counted, Counts] = {of("r1"): (10, 100, 50, 10_000), of("r2"): (5, 50, 0, 90_000)}
    now: dict[Counted, Counts] = {
        of("r1"): (99, 900, 450, 90_000),
        of("r2"): (15, 150, 80, 110_000),
    }
    seen = quality(since, now, "r2", "r1")
    assert (seen.acceptance_permille, seen.speed_permille) == (800, 500)


def test_speed_is_compared_class_by_class() -> None:
    """The wave's one slow device drafts as fast as slow devices did: 1000, not a tenth."""
    now: dict[Counted, Counts] = {
        of("r1", "orin"): (100, 10_000, 5000, 10_000),
        of("r1", "pi5"): (10, 100, 50, 1000),
        of("r2", "pi5"): (10, 100, 50, 1000),
        of("r2", "new-kind"): (10, 100, 50, 9_000_000),
    }
    assert quality({}, now, "r2", "r1").speed_permille == 1000


def test_nothing_drafted_means_not_known() -> None:
    before: dict[Counted, Counts] = {of("r1"): (10, 100, 50, 10_000)}
    seen = quality({}, before, "r2", "r1")
    assert (seen.acceptance_permille, seen.speed_permille) == (None, None)
