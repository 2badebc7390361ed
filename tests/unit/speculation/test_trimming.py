"""Which draft tokens a step verifies: the best count by goodput, deadlines, room, and nothing that biases."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import numpy as np
import pytest

from sled_speculation.step_cost import KNOTS, StepCost
from sled_speculation.trimming import (
    NOTHING_PAYS,
    WORTHWHILE,
    DraftedRound,
    StepFrame,
    is_even,
    paying_length,
    price_of,
    survival_of,
    trim,
)


def straight(fixed: float, token: float) -> StepCost:
    return StepCost(np.array([fixed + token * knot for knot in KNOTS]))


def greedy(*acceptances: float) -> DraftedRound:
    survival = survival_of(acceptances)
    return DraftedRound(survival, survival)


def goodput(rounds: list[DraftedRound], verified: tuple[int, ...], cost: StepCost) -> float:
    expected = sum(1 + float(r.survival[:n].sum()) for r, n in zip(rounds, verified, strict=True))
    tokens = np.array([len(rounds) + sum(verified)])
    return expected / float(cost.by_tokens(tokens, len(rounds), 0)[0])


def worth(rounds: list[DraftedRound], verified: tuple[int, ...], cost: StepCost) -> float:
    """Output of the draft tokens over what their time would bring without drafts."""
    tokens = np.array([len(rounds), len(rounds) + sum(verified)])
    plain, whole = cost.by_tokens(tokens, len(rounds), 0)
    gain = sum(float(r.survival[:n].sum()) for r, n in zip(rounds, verified, strict=True))
    return math.inf if whole == plain else gain / (len(rounds) / plain * (whole - plain))


def test_no_other_choice_has_a_higher_goodput() -> None:
    rng = random.Random(7)
    given_up = 0
    for _ in range(120):
        curve = np.cumsum([rng.choice([0.0, 0.001, 0.004, 0.02]) for _ in KNOTS]) + 0.01
        cost = StepCost(np.asarray(curve, dtype=np.float64))
        rounds = [greedy(*(rng.random() for _ in range(rng.randrange(4)))) for _ in range(3)]
        found = trim(rounds, StepFrame(3), cost).verified
        lengths = [range(len(r.survival) + 1) for r in rounds]
        best = max(itertools.product(*lengths), key=lambda c: goodput(rounds, c, cost))
        if sum(best) and not sum(found):
            given_up += 1
            assert worth(rounds, best, cost) < WORTHWHILE
        else:
            assert goodput(rounds, found, cost) == pytest.approx(goodput(rounds, best, cost))
            assert not sum(found) or worth(rounds, found, cost) >= WORTHWHILE
    assert 0 < given_up < 30


def test_nearly_free_tokens_are_all_verified_and_dear_ones_none() -> None:
    rounds = [greedy(0.8, 0.8, 0.8, 0.8)] * 4
    assert trim(rounds, StepFrame(4), straight(1.0, 1e-6)).verified == (4, 4, 4, 4)
    trimmed = trim(rounds, StepFrame(4), straight(0.0, 1.0))
    assert trimmed.verified == (0, 0, 0, 0)
    assert trimmed.price == NOTHING_PAYS


def test_doubtful_tails_go_first() -> None:
    rounds = [greedy(0.95, 0.95, 0.95), greedy(0.95, 0.3, 0.9), greedy(0.2)]
    assert trim(rounds, StepFrame(3), straight(1.0, 0.15)).verified == (3, 1, 0)


def test_an_idle_engine_verifies_what_a_busy_one_trims() -> None:
    rounds = [greedy(0.5, 0.5)]
    cost = straight(0.01, 0.02)
    assert trim(rounds, StepFrame(1), cost).verified == (0,)
    assert trim(rounds, StepFrame(1, idle_seconds=1.0), cost).verified == (2,)
    assert trim(rounds, StepFrame(1, idle_seconds=math.inf), cost).verified == (2,)


def test_a_jump_is_taken_when_enough_lies_behind_it() -> None:
    curve = [0.1 if knot == 1 else 0.16 + 0.0001 * knot for knot in KNOTS]
    cost = StepCost(np.array(curve))
    assert trim([greedy(0.5)], StepFrame(1), cost).verified == (0,)
    assert trim([greedy(0.7, 0.9, 0.9, 0.9)], StepFrame(1), cost).verified == (4,)


def test_a_deadline_shortens_the_step_but_never_below_one_token_a_round() -> None:
    rounds = [greedy(0.99, 0.99, 0.99, 0.99)] * 2
    cost = straight(0.1, 0.01)
    assert sum(trim(rounds, StepFrame(2, max_seconds=0.151), cost).verified) == 3
    assert trim(rounds, StepFrame(2, max_seconds=0.01), cost).verified == (0, 0)
    with_prompt = StepFrame(2, prefill_tokens=2, max_seconds=0.151)
    assert sum(trim(rounds, with_prompt, cost).verified) == 1


def test_room_in_the_step_bounds_what_is_verified_and_equals_share_it() -> None:
    rounds = [greedy(0.9, 0.9, 0.9)] * 4
    verified = trim(rounds, StepFrame(4, max_draft_tokens=6), straight(1.0, 1e-6)).verified
    assert verified == (2, 2, 1, 1)
    assert trim(rounds, StepFrame(4, max_draft_tokens=0), straight(1.0, 1e-6)).verified == (0,) * 4


def test_prompts_in_the_step_do_not_make_drafts_look_cheaper() -> None:
    rounds = [greedy(0.6, 0.6)] * 4
    cost = straight(0.1, 0.05)
    alone = trim(rounds, StepFrame(4), cost).verified
    assert trim(rounds, StepFrame(4, prefill_tokens=200), cost).verified == alone


def test_what_is_seen_decides_at_a_price_from_what_was_foreseen() -> None:
    cost = straight(1.0, 0.2)
    foreseen = survival_of([0.7, 0.7, 0.7])
    sure = DraftedRound(survival_of([0.99, 0.99, 0.99]), foreseen)
    unsure = DraftedRound(survival_of([0.99, 0.1, 0.99]), foreseen)
    trimmed = trim([sure, unsure], StepFrame(2), cost)
    assert trimmed.price == trim([greedy(0.7, 0.7, 0.7)] * 2, StepFrame(2), cost).price
    assert trimmed.verified == (3, 1)


def test_a_longer_draft_of_the_same_round_changes_nothing_about_its_first_tokens() -> None:
    """Seen tokens: whatever follows token i, its being verified is the same, at a full step too."""
    rng = random.Random(3)
    foreseen = survival_of([0.8] * 5)
    for _ in range(200):
        others = [DraftedRound(survival_of([rng.random() for _ in range(5)]), foreseen)] * 3
        start = [rng.random() for _ in range(2)]
        frame = StepFrame(4, max_draft_tokens=rng.randrange(1, 16))
        counts = set()
        for _ in range(5):
            tail = [rng.random() for _ in range(3)]
            own = DraftedRound(survival_of([*start, *tail]), foreseen)
            counts.add(min(2, trim([*others, own], frame, straight(1.0, 0.05)).verified[3]))
        assert len(counts) == 1


def test_nothing_to_choose_from() -> None:
    assert trim([], StepFrame(0), straight(1.0, 0.1)).verified == ()
    assert trim([greedy(), greedy()], StepFrame(2), straight(1.0, 0.1)).verified == (0, 0)
    assert trim([], StepFrame(0, prefill_tokens=9), straight(1.0, 0.1)).verified == ()


def test_the_price_rises_with_the_load_and_lengths_follow() -> None:
    survival = survival_of([0.8] * 8)
    prices = [
        price_of(survival, n, StepFrame(n), straight(0.05, 0.001)) for n in (1, 4, 16, 64, 256)
    ]
    assert prices == sorted(prices)
    lengths = [paying_length(survival, price) for price in prices]
    assert lengths[0] == 8 > lengths[-1]
    assert paying_length(survival, NOTHING_PAYS) == 0


def test_a_gain_within_the_error_of_the_cost_is_not_taken() -> None:
    """Half a step's time more for 0.5 tokens a round: neither gain nor loss, if the cost is right."""
    rounds = [greedy(0.55)] * 64
    dear = straight(0.32, 0.01)
    assert trim(rounds, StepFrame(64), dear).price == NOTHING_PAYS
    assert trim(rounds, StepFrame(64, idle_seconds=0.5), dear).verified == (1,) * 64
    assert trim([greedy(0.8)] * 64, StepFrame(64), dear).verified == (1,) * 64


def test_one_drafter_among_many_devices_without_drafts_is_worth_its_own_time() -> None:
    rounds = [greedy(0.8, 0.8), *[greedy()] * 63]
    assert trim(rounds, StepFrame(64), straight(1.0, 1e-4)).verified[0] == 2
    assert trim(rounds, StepFrame(64), straight(0.01, 1.0)).verified[0] == 0


def goodput_of_length(rounds: list[DraftedRound], length: int, cost: StepCost) -> float:
    """Where every sequence costs as much as the longest."""
    expected = sum(1 + float(r.survival[:length].sum()) for r in rounds)
    rows = np.array([len(rounds) * (length + 1)])
    return expected / float(cost.by_tokens(rows, len(rounds), 0)[0])


def test_where_a_step_is_a_rectangle_all_verify_up_to_the_best_length() -> None:
    rng = random.Random(8)
    chosen = set()
    for _ in range(200):
        cost = straight(rng.choice([0.01, 0.1, 1.0]), 0.01)
        rounds = [greedy(*(rng.random() ** 0.3 for _ in range(rng.randrange(6)))) for _ in range(4)]
        lengths = [r.survival.size for r in rounds]
        found = trim(rounds, StepFrame(4, rectangular=True), cost).verified
        length = max(found)
        assert found == tuple(min(length, n) for n in lengths)
        best = max(range(max(lengths) + 1), key=lambda n: goodput_of_length(rounds, n, cost))
        if length:
            assert length == best
        elif best:
            gain = goodput_of_length(rounds, best, cost) / goodput_of_length(rounds, 0, cost)
            assert gain < WORTHWHILE
        chosen.add(length)
    assert chosen >= {0, 1, 3, 5}


def test_one_long_draft_does_not_stretch_the_rectangle_for_all() -> None:
    """Eight rows more for one sure token: as dear as a token for each of the eight."""
    cost = straight(0.0, 1.0)
    rounds = [greedy(0.99, 0.99, 0.99), *[greedy()] * 7]
    assert trim(rounds, StepFrame(8, rectangular=True), cost).verified == (0,) * 8
    weights = straight(100.0, 1.0)
    assert trim(rounds, StepFrame(8, rectangular=True), weights).verified[0] == 3


def test_a_rectangle_keeps_to_the_room_and_the_deadline() -> None:
    rounds = [greedy(0.9, 0.9, 0.9, 0.9)] * 4
    cheap = straight(1.0, 1e-6)
    assert trim(rounds, StepFrame(4, rectangular=True), cheap).verified == (4,) * 4
    assert trim(rounds, StepFrame(4, max_draft_tokens=11, rectangular=True), cheap).verified == (
        (2,) * 4
    )
    assert trim(rounds, StepFrame(4, max_draft_tokens=3, rectangular=True), cheap).verified == (
        (0,) * 4
    )
    hurried = StepFrame(4, max_seconds=0.1 + 12 * 0.01, rectangular=True)
    assert trim(rounds, hurried, straight(0.1, 0.01)).verified == (2,) * 4
    idle = StepFrame(4, idle_seconds=math.inf, rectangular=True)
    assert trim(rounds, idle, straight(0.0, 1.0)).verified == (4,) * 4
    assert trim([], StepFrame(0, rectangular=True), cheap).verified == ()


def test_the_length_of_a_rectangle_looks_at_no_drawn_token() -> None:
    rng = random.Random(4)
    foreseen = survival_of([0.8] * 5)
    frame = StepFrame(4, rectangular=True)
    found = {
        trim(
            [DraftedRound(survival_of([rng.random() for _ in range(5)]), foreseen)] * 4,
            frame,
            straight(1.0, 0.1),
        ).verified
        for _ in range(50)
    }
    assert len(found) == 1


def test_the_price_of_a_rectangle_asks_for_the_length_that_pays() -> None:
    """Devices that draft what the price asks for fill the rectangle and no more."""
    cost = straight(0.3, 0.01)
    frame = StepFrame(8, rectangular=True)
    survival = survival_of([0.8] * 8)
    price = price_of(survival, 8, frame, cost)
    best = max(trim([greedy(*[0.8] * 8)] * 8, frame, cost).verified)
    assert 1 <= best < 8
    assert paying_length(survival, price) == best
    assert price_of(survival, 8, frame, straight(0.0, 1.0)) == NOTHING_PAYS


def test_even_sizes_are_few_and_near_to_each_other() -> None:
    sizes = np.flatnonzero(is_even(np.arange(1025)))
    assert sizes[:34].tolist() == [*range(33), 36]
    assert {48, 64, 72, 128, 144, 256, 288, 512, 576} <= set(sizes.tolist())
    assert (sizes <= 512).sum() == 1 + 64
    assert all(
        after <= before * 1.125 for before, after in itertools.pairwise(sizes[1:]) if before >= 32
    )


@pytest.mark.parametrize("prefill_tokens", [0, 7])
def test_even_steps_have_even_sizes_and_the_likeliest_tokens(prefill_tokens: int) -> None:
    rng = random.Random(3)
    cost = straight(1.0, 0.004)
    trimmed = 0
    for _ in range(60):
        rounds = [greedy(*[rng.uniform(0.6, 0.95)] * rng.randrange(1, 9)) for _ in range(13)]
        frame = StepFrame(13, prefill_tokens=prefill_tokens)
        free = trim(rounds, frame, cost).verified
        even = trim(rounds, replace(frame, even=True), cost).verified
        total = 13 + prefill_tokens + sum(even)
        assert is_even(np.array([total]))[0]
        trimmed += sum(even) < sum(free)
        left_out = [
            float(r.survival[n]) for r, n in zip(rounds, even, strict=True) if n < len(r.survival)
        ]
        verified = [float(r.survival[n - 1]) for r, n in zip(rounds, even, strict=True) if n]
        assert max(left_out, default=0.0) <= min(verified, default=1.0) + 1e-12
    assert trimmed


def test_a_step_without_drafts_is_of_any_size() -> None:
    rounds = [greedy(0.01)] * 37
    assert trim(rounds, StepFrame(37, even=True), straight(0.0, 1.0)).verified == (0,) * 37
