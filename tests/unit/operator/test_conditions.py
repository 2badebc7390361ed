from __future__ import annotations

from sled_operator.conditions import Observation, Reason, Type, fold
from sled_operator.server_status import Problem, Replicas, observe, replicas_of

READY = Observation(Type.READY, True, Reason.AS_DESIRED, "all serve")


def test_the_transition_time_moves_only_with_the_status() -> None:
    first = fold([], [READY], 1, "t1")
    same = fold(first, [READY], 2, "t2")
    assert same[0]["lastTransitionTime"] == "t1"
    assert same[0]["observedGeneration"] == 2
    gone = fold(same, [Observation(Type.READY, False, Reason.ROLLING_OUT, "x")], 2, "t3")
    assert gone[0]["lastTransitionTime"] == "t3"


def test_conditions_of_others_are_kept() -> None:
    foreign = {"type": "Audited", "status": "True"}
    assert foreign in fold([foreign], [READY], 1, "t")


def by_type(replicas: Replicas, problems: list[Problem] | None = None) -> dict[Type, Observation]:
    return {seen.type: seen for seen in observe(replicas, problems or [])}


def test_a_whole_server_is_ready() -> None:
    seen = by_type(Replicas(2, 2, 2, 2))
    assert seen[Type.READY].status
    assert seen[Type.AVAILABLE].status
    assert not seen[Type.PROGRESSING].status
    assert not seen[Type.DEGRADED].status


def test_starting_rolling_and_empty_servers() -> None:
    assert by_type(Replicas(2, 2, 1, 2))[Type.READY].reason is Reason.REPLICAS_STARTING
    assert by_type(Replicas(2, 2, 2, 1))[Type.READY].reason is Reason.ROLLING_OUT
    none = by_type(Replicas(2, 2, 0, 2))
    assert none[Type.AVAILABLE].reason is Reason.NO_REPLICA_READY
    zero = by_type(Replicas(0))
    assert zero[Type.READY].status
    assert zero[Type.READY].reason is Reason.SCALED_TO_ZERO
    assert not zero[Type.AVAILABLE].status


def test_an_unsettled_statefulset_is_never_ready() -> None:
    assert not by_type(Replicas(2, 2, 2, 2, settled=False))[Type.READY].status


def test_a_problem_degrades_but_replicas_stay_available() -> None:
    seen = by_type(Replicas(1, 1, 1, 1), [Problem(Reason.SECRET_MISSING, "there is no Secret x")])
    assert seen[Type.DEGRADED].status
    assert seen[Type.READY].message == "there is no Secret x"
    assert seen[Type.AVAILABLE].status


def test_counts_come_from_the_statefulset() -> None:
    document = {
        "metadata": {"generation": 4},
        "status": {
            "observedGeneration": 3,
            "replicas": 3,
            "readyReplicas": 2,
            "updatedReplicas": 1,
            "currentRevision": "a",
            "updateRevision": "b",
        },
    }
    counts = replicas_of(document, 3)
    assert (counts.existing, counts.ready, counts.updated, counts.settled) == (3, 2, 1, False)
