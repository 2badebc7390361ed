"""A replica's share of the devices: who asks how many to go, how often, and when it is enough."""

from __future__ import annotations

import itertools
import random

import pytest

from sled_verifier.balance import MAX_SKIPPED_LOOKS, PATIENT_LOOKS, Balance, excess


@pytest.mark.parametrize(
    ("mine", "all_counts", "too_many"),
    [
        (9, [9], 0),
        (9, [], 0),
        (3, [3, 0], 1),
        (2, [2, 1], 0),
        (2, [2, 0], 1),
        (1, [1, 0, 0], 0),
        (10, [10, 0, 0], 6),
        (110, [110, 90], 0),
        (111, [111, 89], 1),
        (0, [0, 12], 0),
    ],
)
def test_excess_is_what_is_above_the_share(mine: int, all_counts: list[int], too_many: int) -> None:
    assert excess(mine, all_counts) == too_many


def test_a_replica_alone_or_with_its_share_asks_nobody() -> None:
    balance = Balance()
    assert [balance.look(9, [9]) for _ in range(5)] == [0] * 5
    assert [balance.look(5, [5, 5]) for _ in range(5)] == [0] * 5


def test_no_more_than_a_quarter_is_asked_at_once() -> None:
    assert Balance().look(1000, [1000, 0]) == 250


def test_asking_in_vain_becomes_rare_and_a_new_replica_ends_that() -> None:
    balance = Balance()
    asked = [balance.look(3, [3, 0]) for _ in range(2000)]
    at = [place for place, count in enumerate(asked) if count]
    gaps = [b - a for a, b in itertools.pairwise(at)]
    assert at[0] == 0
    assert gaps[:PATIENT_LOOKS] == [1] * PATIENT_LOOKS
    assert gaps == sorted(gaps)
    assert gaps[-1] == MAX_SKIPPED_LOOKS + 1
    assert balance.look(3, [3, 0, 0]) == 1


def test_asking_that_helps_goes_on_at_the_full_pace() -> None:
    balance = Balance()
    counts = [100, 0]
    for _ in range(40):
        gone = balance.look(counts[0], counts)
        assert gone or counts[0] <= 55
        counts = [counts[0] - gone, counts[1] + gone]
    assert excess(counts[0], counts) == 0


@pytest.mark.parametrize("seed", range(20))
def test_a_fleet_spreads_whatever_the_service_chooses(seed: int) -> None:
    """Everybody returns to a replica chosen at random, as with kube-proxy; nobody moves once it is even."""
    chance = random.Random(seed)
    replicas, devices = chance.randint(2, 6), chance.randint(2, 400)
    counts = [devices] + [0] * (replicas - 1)
    looks = [Balance() for _ in counts]
    for _ in range(3000):
        for place in range(replicas):
            for _ in range(looks[place].look(counts[place], counts)):
                counts[place] -= 1
                counts[chance.randrange(replicas)] += 1
    assert sum(counts) == devices
    assert all(excess(count, counts) == 0 for count in counts)
    assert [balance.look(count, counts) for balance, count in zip(looks, counts, strict=True)] == [
        0
    ] * replicas
