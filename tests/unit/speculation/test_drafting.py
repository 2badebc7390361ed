"""What a model drafter makes of its logits, in each mode."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sled_protocol.distribution import quantise
from sled_speculation.choice import target_token
from sled_speculation.drafting import draft_token
from sled_speculation.randomness import Purpose, uniform
from sled_speculation.sampling import AcceptanceMode, SamplingParams
from sled_speculation.transforms import TokenSet, UnusableLogits, target_probs

ROW = np.random.default_rng(1).normal(0, 2, 500).astype(np.float32)
SEEN = TokenSet([3, 4])


def draft(params, **overrides):
    keywords = {"position": 12, "max_entries": 16, "round_start": 10, **overrides}
    return draft_token(ROW, params, SEEN, **keywords)


def test_greedy_is_the_argmax_without_a_distribution():
    token, distribution, confidence = draft(SamplingParams())
    assert token == int(ROW.argmax())
    assert distribution is None
    exact = np.exp(ROW.astype(np.float64) - ROW.max())
    assert math.isclose(confidence, 1 / exact.sum(), rel_tol=1e-5)


def test_greedy_heeds_the_repetition_penalty():
    favourite = int(ROW.argmax())
    params = SamplingParams(repetition_penalty=5.0)
    token, _, _ = draft_token(ROW, params, TokenSet([favourite]), 1, 8, round_start=1)
    assert token != favourite


def test_rejection_samples_from_exactly_what_it_sends():
    for seed in range(200):
        params = SamplingParams(temperature=0.9, top_p=0.95, seed=seed)
        token, distribution, confidence = draft(params)
        assert distribution == quantise(target_probs(ROW, params, SEEN), 16)
        assert token == distribution.sample(uniform(seed, 12, Purpose.DRAFT, 10))
        assert confidence == distribution.probability(token) > 0


def test_rejection_draws_anew_in_another_round():
    params = SamplingParams(temperature=2.0, seed=4)
    tokens = {draft(params, round_start=start)[0] for start in range(12)}
    assert len(tokens) > 1


def test_match_runs_the_targets_race():
    for seed in range(50):
        params = SamplingParams(temperature=0.9, seed=seed, mode=AcceptanceMode.MATCH)
        token, distribution, confidence = draft(params)
        probs = target_probs(ROW, params, SEEN)
        assert (token, distribution) == (target_token(probs, seed, 12), None)
        assert confidence == probs[token]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_unusable_logits_are_named(temperature):
    row = ROW.copy()
    row[77] = np.nan
    with pytest.raises(UnusableLogits):
        draft_token(row, SamplingParams(temperature=temperature), SEEN, 1, 8, round_start=1)
