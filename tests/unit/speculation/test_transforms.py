"""Sampling transforms, against a slow and literal reference in the documented order."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sled_speculation.sampling import SamplingParams
from sled_speculation.transforms import (
    TokenSet,
    UnusableLogits,
    greedy_token,
    penalised,
    target_probs,
)


def reference(logits, params, seen):
    """penalty -> temperature -> top-k -> top-p -> min-p, with Python lists and full sorts."""
    scores = {}
    penalty = np.float32(params.repetition_penalty)
    for token, logit in enumerate(logits):
        if token in seen:
            logit = logit / penalty if logit > 0 else logit * penalty
        scores[token] = float(logit) / params.temperature
    kept = sorted(scores, key=lambda t: (-scores[t], t))
    if params.top_k:
        kept = kept[: params.top_k]
    top = scores[kept[0]]
    weights = {t: math.exp(scores[t] - top) for t in kept}
    total = math.fsum(weights.values())
    probs = {t: w / total for t, w in weights.items()}
    if params.top_p < 1:
        nucleus, mass = [], 0.0
        for token in kept:
            nucleus.append(token)
            mass += probs[token]
            if mass >= params.top_p:
                break
        kept = nucleus
    kept = [t for t in kept if probs[t] >= params.min_p * probs[kept[0]]]
    total = math.fsum(probs[t] for t in kept)
    dense = np.zeros(logits.size)
    dense[kept] = [probs[t] / total for t in kept]
    return dense


PARAMETERS = [
    {},
    {"temperature": 0.01},
    {"temperature": 10.0},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 10_000},
    {"top_p": 0.5},
    {"top_p": 0.95},
    {"top_p": 1e-9},
    {"min_p": 0.2},
    {"min_p": 0.999},
    {"repetition_penalty": 1.5},
    {"repetition_penalty": 0.7},
    {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.1},
]


@pytest.mark.parametrize("size", [2, 50, 3000])
@pytest.mark.parametrize("overrides", PARAMETERS, ids=str)
def test_equals_the_literal_reference(size, overrides):
    rng = np.random.default_rng(size)
    params = SamplingParams(**{"temperature": 1.0, **overrides})
    for _ in range(5):
        logits = rng.normal(0, 3, size).astype(np.float32)
        seen = TokenSet(rng.integers(0, size, 6).tolist())
        expected = reference(logits, params, seen)
        probs = target_probs(logits, params, seen)
        assert probs.dtype == np.float64
        assert np.array_equal(probs > 0, expected > 0)
        np.testing.assert_allclose(probs, expected, rtol=1e-9, atol=1e-300)
        assert math.isclose(probs.sum(), 1, rel_tol=1e-12)


def test_the_order_of_the_transforms_shows():
    """top-p sees what top-k left, renormalised: 0.5 of the whole is 0.625 of the first two."""
    logits = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    both = target_probs(logits, SamplingParams(temperature=1.0, top_k=2, top_p=0.6), TokenSet())
    np.testing.assert_allclose(both, [1, 0, 0])


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1.0, top_k=3),
        SamplingParams(temperature=1.0, top_p=0.29),
    ],
)
def test_the_lowest_ids_win_ties(params):
    probs = target_probs(np.zeros(10, np.float32), params, TokenSet())
    assert np.flatnonzero(probs).tolist() == [0, 1, 2]


def test_the_most_probable_token_always_stays():
    logits = np.array([0.0, 5.0, 0.0], np.float32)
    for overrides in ({"top_p": 1e-6}, {"min_p": 0.9999}, {"top_k": 1}):
        params = SamplingParams(temperature=10.0, **overrides)
        assert target_probs(logits, params, TokenSet()).tolist() == [0, 1, 0]


def test_minus_infinity_is_an_impossible_token():
    logits = np.array([-np.inf, 1.0, -np.inf, 1.0], np.float32)
    params = SamplingParams(temperature=0.5, repetition_penalty=1.3)
    np.testing.assert_allclose(target_probs(logits, params, TokenSet([0])), [0, 0.5, 0, 0.5])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 3, 4999])
def test_unusable_rows_have_a_named_error(bad, place):
    logits = np.zeros(5000, np.float32)
    logits[place] = bad
    for overrides in ({}, {"top_k": 5}, {"top_p": 0.5}, {"repetition_penalty": 2.0}):
        params = SamplingParams(temperature=1.0, **overrides)
        with pytest.raises(UnusableLogits, match="finite"):
            target_probs(logits, params, TokenSet([1]))
    with pytest.raises(UnusableLogits, match="finite"):
        greedy_token(logits, SamplingParams(), TokenSet())


def test_a_row_without_any_possible_token_has_a_named_error():
    logits = np.full(10, -np.inf, np.float32)
    with pytest.raises(UnusableLogits):
        target_probs(logits, SamplingParams(temperature=1.0), TokenSet())
    with pytest.raises(UnusableLogits):
        greedy_token(logits, SamplingParams(), TokenSet())


def test_a_penalty_that_overflows_has_a_named_error():
    logits = np.array([3e38, 0.0], np.float32)
    with pytest.raises(UnusableLogits):
        greedy_token(logits, SamplingParams(repetition_penalty=0.01), TokenSet([0]))


def test_greedy_has_no_distribution():
    with pytest.raises(ValueError, match="temperature is 0"):
        target_probs(np.zeros(3, np.float32), SamplingParams(), TokenSet())


def test_greedy_takes_the_lowest_id_among_equals_and_heeds_the_penalty():
    logits = np.array([1.0, 3.0, 3.0, 2.0], np.float32)
    assert greedy_token(logits, SamplingParams(), TokenSet()) == 1
    params = SamplingParams(repetition_penalty=2.0)
    assert greedy_token(logits, params, TokenSet([1])) == 2
    assert greedy_token(logits, params, TokenSet([1, 2])) == 3


def test_the_penalty_lowers_both_signs_and_leaves_the_input_alone():
    logits = np.array([2.0, -2.0, 0.0, 2.0], np.float32)
    before = logits.copy()
    row = penalised(logits, SamplingParams(repetition_penalty=2.0), TokenSet([0, 1, 2, 99]))
    assert row.tolist() == [1.0, -4.0, 0.0, 2.0]
    assert np.array_equal(logits, before)


def test_without_a_penalty_nothing_is_copied():
    logits = np.zeros(3, np.float32)
    assert penalised(logits, SamplingParams(), TokenSet([1])) is logits


def test_token_set_grows_keeps_order_and_copies():
    tokens = TokenSet([5, 3, 5])
    tokens.extend(range(200))
    assert len(tokens) == 200
    assert tokens.ids[:4].tolist() == [5, 3, 0, 1]
    assert 199 in tokens
    assert 200 not in tokens
    other = tokens.copy()
    other.add(1000)
    assert 1000 not in tokens
    assert len(tokens) == 200
    assert sorted(other.ids.tolist()) == [*range(200), 1000]
