"""The draft-length controller: bounds that always hold, the right direction, and nearly the best goodput in simulation."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import pytest

from sled_speculation.draft_length import DraftLengthController
from sled_speculation.draft_length_policy import (
    DraftLengthPolicy,
    DraftLengthSettings,
    FixedDraftLength,
)


@dataclass
class World:
    """A simulated device, link and verifier; `confident` lets the drafter know something about its tokens."""

    acceptance: float = 0.8
    draft_seconds: float = 0.02
    round_trip_seconds: float = 0.1
    verify_seconds: float = 0.0
    confident: bool = False
    jitter: float = 0.05

    def token(self, rng: random.Random) -> tuple[float, bool]:
        chance = self.acceptance
        if self.confident:
            chance = rng.betavariate(2 * self.acceptance, 2 * (1 - self.acceptance))
        return (chance**1.5 if self.confident else 0.5), rng.random() < chance

    def noise(self, rng: random.Random) -> float:
        return 1 + self.jitter * rng.random()


@dataclass
class Result:
    lengths: list[int]
    output_tokens: int = 0
    seconds: float = 0.0

    @property
    def goodput(self) -> float:
        return self.output_tokens / self.seconds

    def mean_length(self, last: int = 200) -> float:
        return sum(self.lengths[-last:]) / len(self.lengths[-last:])


def play(policy: DraftLengthPolicy, world: World, rounds=400, hint=None, seed=1) -> Result:
    rng = random.Random(seed)
    result = Result([])
    for _ in range(rounds):
        limit = policy.limit(hint)
        confidences: list[float] = []
        judged: list[bool] = []
        while len(confidences) < limit and policy.keep_drafting(confidences):
            confidence, good = world.token(rng)
            confidences.append(confidence)
            judged.append(good)
        drafted = len(judged)
        accepted = judged.index(False) if False in judged else drafted
        draft_seconds = world.draft_seconds * drafted * world.noise(rng)
        round_trip = world.round_trip_seconds + world.verify_seconds * drafted
        round_trip *= world.noise(rng)
        policy.observe(drafted, accepted, draft_seconds, round_trip, confidences)
        result.lengths.append(drafted)
        result.output_tokens += accepted + 1
        result.seconds += draft_seconds + round_trip
    return result


def controller(max_tokens=16, **settings) -> DraftLengthController:
    return DraftLengthController(DraftLengthSettings(max_tokens, **settings))


WORLDS = [
    World(acceptance, draft, trip, verify, confident)
    for acceptance in (0.1, 0.4, 0.8, 0.95)
    for draft, trip, verify in (
        (0.02, 0.1, 0.0),
        (0.1, 0.1, 0.0),
        (0.005, 0.2, 0.001),
        (0.02, 0.03, 0.03),
        (0.001, 0.01, 0.0005),
        (0.3, 0.05, 0.0),
    )
    for confident in (False, True)
]


@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_goodput_is_near_the_best_fixed_length_and_hardly_ever_below_plain_decoding(world):
    """Deterministic given the simulation's seed: no false alarm. Covers links from 10 to 200 ms and costly verification."""
    chosen = play(controller(), world, rounds=800).goodput
    fixed = {k: play(FixedDraftLength(k), world).goodput for k in (0, 1, 2, 3, 4, 6, 8, 12, 16)}
    assert chosen > 0.93 * max(fixed.values())
    assert chosen > 0.96 * fixed[0]


@pytest.mark.parametrize("acceptance", [0.1, 0.4, 0.8, 0.95])
@pytest.mark.parametrize(("draft", "verify"), [(0.02, 0.0), (0.1, 0.0), (0.02, 0.05)])
def test_a_link_that_jitters_by_a_factor_of_three_misleads_nobody(acceptance, draft, verify):
    world = World(acceptance, draft, 0.1, verify, jitter=2.0)
    chosen = play(controller(), world, rounds=800).goodput
    fixed = {k: play(FixedDraftLength(k), world).goodput for k in (0, 1, 2, 3, 4, 6, 8, 12)}
    assert chosen > 0.90 * max(fixed.values())
    assert chosen > 0.95 * fixed[0]


def test_confidence_is_worth_something():
    known = World(0.8, 0.02, 0.1, confident=True)
    best_fixed = max(play(FixedDraftLength(k), known, rounds=2000).goodput for k in range(1, 9))
    assert play(controller(), known, rounds=2000).goodput > 1.02 * best_fixed


def test_longer_when_acceptance_is_higher():
    lengths = [play(controller(), World(acceptance=a)).mean_length() for a in (0.2, 0.5, 0.8, 0.95)]
    assert lengths == sorted(lengths)
    assert lengths[-1] > lengths[0] + 4


def test_shorter_when_drafting_is_slower():
    lengths = [
        play(controller(), World(draft_seconds=d)).mean_length() for d in (0.002, 0.02, 0.05, 0.2)
    ]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] < 0.2


def test_shorter_when_verification_is_dearer():
    lengths = [play(controller(), World(verify_seconds=v)).mean_length() for v in (0.0, 0.03, 0.09)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] < 0.2


def test_longer_when_the_link_is_slower():
    lengths = [
        play(controller(), World(round_trip_seconds=r)).mean_length() for r in (0.02, 0.1, 0.4, 2.0)
    ]
    assert lengths == sorted(lengths)
    assert lengths[-1] > lengths[0] + 4


def changed(policy: DraftLengthController, before: World, after: World) -> tuple[float, float]:
    first = play(policy, before, rounds=400)
    second = play(policy, after, rounds=800, seed=2)
    return first.mean_length(), second.mean_length()


def test_recovers_when_acceptance_gets_better():
    before, after = changed(controller(), World(acceptance=0.02), World(acceptance=0.9))
    assert before < 0.5
    assert after > 4


def test_recovers_when_drafting_gets_faster():
    """Only drafting tells how long drafting takes, so the controller must try now and then."""
    before, after = changed(controller(), World(draft_seconds=0.5), World(draft_seconds=0.005))
    assert before < 0.2
    assert after > 4


def test_recovers_when_verification_gets_cheaper():
    before, after = changed(controller(), World(verify_seconds=0.2), World())
    assert before < 0.3
    assert after > 2


def test_recovers_from_one_absurd_measurement():
    policy = controller()
    play(policy, World(), rounds=100)
    policy.observe(4, 0, 3600.0, 3600.0)
    assert play(policy, World(), rounds=60).mean_length(20) > 2


def test_follows_a_link_that_slows_down_without_blaming_the_draft_length():
    policy = controller()
    play(policy, World(round_trip_seconds=0.05), rounds=200)
    slow = play(policy, World(round_trip_seconds=0.5), rounds=100)
    assert slow.mean_length(50) > 5


@pytest.mark.parametrize("seed", range(30))
def test_bounds_hold_whatever_is_observed(seed):
    rng = random.Random(seed)
    max_tokens = rng.randrange(33)
    policy = controller(max_tokens)
    for _ in range(400):
        hint = rng.choice([None, 0, 1, 5, 40])
        remaining = rng.choice([None, 0, 1, 2, 7, 1000])
        allowed = min(
            max_tokens,
            40 if hint is None else hint,
            40 if remaining is None else max(0, remaining - 1),
        )
        limit = policy.limit(hint, remaining)
        assert 0 <= limit <= allowed
        confidences: list[float] = []
        while policy.keep_drafting(confidences):
            confidences.append(rng.random())
        assert len(confidences) <= limit
        drafted = len(confidences)
        verified = rng.randint(0, drafted)
        seconds = 10.0 ** rng.uniform(-9, 3)
        policy.observe(
            drafted,
            rng.randint(0, verified),
            rng.choice([0.0, seconds]),
            rng.choice([0.0, seconds]),
            confidences if rng.random() < 0.5 else (),
            verified,
        )


def test_a_hint_of_zero_is_final():
    result = play(controller(), World(acceptance=0.99), rounds=300, hint=0)
    assert set(result.lengths) == {0}


def test_drafting_starts_again_after_the_hint_is_lifted():
    policy = controller()
    play(policy, World(), rounds=200, hint=0)
    assert play(policy, World(), rounds=100).mean_length(50) > 2


def test_the_last_token_needs_no_draft():
    policy = controller()
    assert policy.limit(None, 1) == 0
    assert policy.limit(None, 2) <= 1


def test_minimum_confidence_stops_after_the_unsure_token():
    policy = controller(16, min_confidence=0.4)
    play(policy, World(acceptance=0.95, draft_seconds=0.001), rounds=100)
    assert policy.limit() > 2
    assert policy.keep_drafting([0.9, 0.9])
    assert not policy.keep_drafting([0.9, 0.39])


def test_the_same_observations_give_the_same_choices():
    first, second = (play(controller(), World(confident=True), seed=7) for _ in range(2))
    assert first == second


def test_tokens_the_server_trimmed_are_no_rejections():
    trimmed, judged = controller(), controller()
    for _ in range(50):
        trimmed.observe(8, 4, 0.1, 0.1, (), verified=4)
        judged.observe(8, 4, 0.1, 0.1)
    assert trimmed.acceptance_rate > 0.95
    assert judged.acceptance_rate < 0.85


def test_a_drafter_that_finds_nothing_keeps_its_record():
    """An n-gram drafter proposes in few rounds; the others say nothing about its guesses and must not cut them short."""
    policy = controller()
    for _ in range(60):
        policy.limit()
        policy.observe(6, 6, 1e-5, 0.1)
    before = policy.limit()
    for _ in range(300):
        policy.limit()
        policy.observe(0, 0, 0.0, 0.1)
    assert math.isclose(policy.acceptance_rate, policy.fork().acceptance_rate, abs_tol=0.1)
    assert policy.acceptance_rate > 0.9
    assert max(policy.limit(), policy.limit()) >= before // 2


def test_a_fork_knows_the_costs_and_goes_its_own_way():
    policy = controller()
    play(policy, World(acceptance=0.9), rounds=200)
    other = policy.fork()
    assert other.limit() > 2
    play(other, World(acceptance=0.05), rounds=100)
    assert other.acceptance_rate < 0.4 < policy.acceptance_rate


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((2, 3, 0.0, 0.0), "must not decrease"),
        ((2, -1, 0.0, 0.0), "must not decrease"),
        ((2, 2, 0.0, 0.0, (), 1), "must not decrease"),
        ((2, 1, 0.0, 0.0, (), 3), "must not decrease"),
        ((1, 1, -1.0, 0.0), "draft_seconds"),
        ((1, 1, 0.0, math.nan), "round_trip_seconds"),
        ((1, 1, math.inf, 0.0), "draft_seconds"),
    ],
)
def test_contradictory_observations_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        controller().observe(*arguments)


@pytest.mark.parametrize(
    "settings", [{"max_tokens": -1}, {"max_tokens": 33}, {"min_confidence": 1.5}]
)
def test_settings_outside_their_range_are_refused(settings):
    with pytest.raises(ValueError, match="allowed"):
        DraftLengthSettings(**settings)


def test_fixed_length_obeys_hint_and_remaining_tokens():
    policy = FixedDraftLength(5)
    assert [policy.limit(), policy.limit(3), policy.limit(9, 2), policy.limit(None, 0)] == [
        5,
        3,
        1,
        0,
    ]
    assert policy.keep_drafting([0.0] * 4)
    assert not policy.keep_drafting([1.0] * 5)
