from __future__ import annotations

import itertools
from typing import Any

import pytest

from sled_operator.autoscaler.decision import Decision, History, Reason, decide
from sled_operator.autoscaler.sample import Sample, Stats, sample
from sled_operator.spec.autoscaling import Autoscaling

SLOTS = 8


def spec(**fields: Any) -> Autoscaling:
    return Autoscaling.model_validate({"mode": "Builtin", "maxReplicas": 10} | fields)


def busy(replicas: int, queue: int, active: int = 0, devices: int = 1) -> Sample:
    """Everything on the first replica: only sums count."""
    rest = [Stats(0, 0, devices)] * (replicas - 1)
    return sample([Stats(queue, active, devices), *rest])


def once(
    settings: Autoscaling, current: int, seen: Sample, now: float = 1000.0, started: float = 0.0
) -> Decision:
    return decide(settings, SLOTS, current, seen, History(started), now)


def test_a_long_queue_grows_at_once() -> None:
    result = once(spec(targetQueueDepth=8), 1, busy(1, 30))
    assert (result.replicas, result.reason) == (4, Reason.QUEUE_LONG)
    assert "30 drafts wait" in result.message


@pytest.mark.parametrize("queue", [15, 16, 17])
def test_within_a_tenth_of_the_target_nothing_changes(queue: int) -> None:
    result = once(spec(targetQueueDepth=8), 2, busy(2, queue))
    assert (result.replicas, result.reason) == (2, Reason.STEADY)


def test_growth_is_limited_per_period_and_goes_on_in_the_next() -> None:
    settings = spec(scaleUp={"maxReplicasPerPeriod": 1, "maxPercentPerPeriod": 0})
    first = once(settings, 1, busy(1, 80))
    assert (first.replicas, first.reason) == (2, Reason.RATE_LIMITED)
    second = decide(settings, SLOTS, 2, busy(2, 80), first.history, 1010.0)
    assert second.replicas == 2
    third = decide(settings, SLOTS, 2, busy(2, 80), second.history, 1061.0)
    assert third.replicas == 3


def test_the_larger_of_both_limits_counts() -> None:
    settings = spec(scaleUp={"maxReplicasPerPeriod": 1, "maxPercentPerPeriod": 200})
    assert once(settings, 2, busy(2, 80)).replicas == 6


def test_no_limits_means_no_limits() -> None:
    settings = spec(scaleUp={"maxReplicasPerPeriod": 0, "maxPercentPerPeriod": 0})
    assert once(settings, 1, busy(1, 80)).replicas == 10


def test_maximum_and_minimum_hold() -> None:
    assert once(spec(maxReplicas=3), 2, busy(2, 800)).replicas == 3
    settings = spec(minReplicas=2, scaleDown={"stabilizationSeconds": 0})
    assert once(settings, 3, busy(3, 0)).replicas == 2


def test_shrinking_waits_for_its_window_then_goes_one_by_one() -> None:
    settings = spec(scaleDown={"stabilizationSeconds": 100})
    history = History(0.0)
    replicas, seen = 4, []
    for now in range(0, 400, 10):
        result = decide(settings, SLOTS, replicas, busy(replicas, 0), history, float(now))
        history, replicas = result.history, result.replicas
        seen.append(replicas)
    assert seen[:10] == [4] * 10
    assert seen[-1] == 1
    assert all(before - after in (0, 1) for before, after in itertools.pairwise(seen))


def test_a_busy_moment_in_the_window_keeps_replicas() -> None:
    settings = spec(scaleDown={"stabilizationSeconds": 100})
    busy_then = decide(settings, SLOTS, 4, busy(4, 32), History(0.0), 500.0)
    quiet_now = decide(settings, SLOTS, 4, busy(4, 0), busy_then.history, 550.0)
    assert (quiet_now.replicas, quiet_now.reason) == (4, Reason.STABILIZING)


def test_after_a_restart_nothing_shrinks_before_a_whole_window_was_seen() -> None:
    settings = spec(scaleDown={"stabilizationSeconds": 100})
    assert once(settings, 4, busy(4, 0), now=1050.0, started=1000.0).replicas == 4


def test_open_sequences_keep_their_slots() -> None:
    settings = spec(scaleDown={"stabilizationSeconds": 0, "maxReplicasPerPeriod": 9})
    assert once(settings, 4, busy(4, 0, active=17)).replicas == 3


def test_a_silent_replica_counts_as_full_when_shrinking_and_empty_when_growing() -> None:
    settings = spec(targetQueueDepth=8, scaleDown={"stabilizationSeconds": 0})
    shrinking = sample([Stats(0, 0, 1), None, None])
    assert once(settings, 3, shrinking).replicas == 2
    growing = sample([Stats(40, 0, 1), None])
    assert once(settings, 2, growing).replicas == 5


def test_without_answers_the_fallback_or_what_there_is() -> None:
    silent = sample([None, None])
    kept = once(spec(), 2, silent)
    assert (kept.replicas, kept.reason) == (2, Reason.NO_METRICS)
    assert once(spec(fallbackReplicas=5), 2, silent).replicas == 5


def test_zero_only_after_a_quiet_time_without_devices() -> None:
    settings = spec(minReplicas=0, scaleToZeroAfterSeconds=60)
    quiet = sample([Stats(0, 0, 0)])
    first = once(settings, 1, quiet)
    assert first.replicas == 1
    visited = decide(settings, SLOTS, 1, busy(1, 0), first.history, 1030.0)
    again = decide(settings, SLOTS, 1, quiet, visited.history, 1061.0)
    assert again.replicas == 1
    done = decide(settings, SLOTS, 1, quiet, again.history, 1121.0)
    assert (done.replicas, done.reason) == (0, Reason.QUIET)


def test_a_silent_replica_is_not_quiet() -> None:
    assert not sample([Stats(0, 0, 0), None]).quiet


def test_zero_ends_when_a_device_knocks_or_the_minimum_rises() -> None:
    nothing = sample([])
    assert once(spec(minReplicas=0), 0, nothing).replicas == 0
    woken = once(spec(minReplicas=0), 0, sample([], activated=True))
    assert (woken.replicas, woken.reason) == (1, Reason.ACTIVATED)
    assert once(spec(minReplicas=2), 0, nothing).replicas == 2


def test_memory_is_bounded() -> None:
    settings = spec(scaleDown={"stabilizationSeconds": 3600})
    history = History(0.0)
    for now in range(1200):
        history = decide(settings, SLOTS, 2, busy(2, 16), history, float(now)).history
    assert len(history.recommendations) <= 1000
