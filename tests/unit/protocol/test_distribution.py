"""Draft distributions: exact on both sides, small on the wire, and nearly as good as the full ones."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from sled_protocol.distribution import (
    MAX_CODE,
    WEIGHTS,
    DraftDistribution,
    MalformedDistribution,
    pack,
    point_mass,
    quantise,
    unpack,
)

VOCAB = 151_936


def softmax(logits):
    probs = np.exp(logits - logits.max())
    return probs / probs.sum()


RANKS = np.log1p([0, 1, 3, 7, 15, 31, 63, 127, 255, 1023, 4095, 16383, VOCAB - 1])
PROFILES = (
    # share, disagreement, then the probability at each of RANKS
    (0.11, 1.7, (0.15, 0.073, 0.04, 0.021, 9.5e-3, 4.4e-3, 1.8e-3, 7e-4, 2.5e-4, 2.7e-5, 2.4e-6)),
    (0.12, 1.6, (0.29, 0.12, 0.048, 0.019, 6.8e-3, 2.6e-3, 8.9e-4, 3e-4, 9.9e-5, 9.6e-6, 8.6e-7)),
    (0.18, 1.5, (0.45, 0.13, 0.037, 0.011, 3.5e-3, 1.1e-3, 3.4e-4, 1e-4, 3.5e-5, 3.6e-6, 3.6e-7)),
    (0.26, 1.5, (0.6, 0.12, 0.023, 4.4e-3, 1e-3, 2.9e-4, 8.4e-5, 2.6e-5, 8.2e-6, 8.8e-7, 9.3e-8)),
    (0.33, 2.0, (0.85, 0.011, 8e-4, 1.2e-4, 2e-5, 4.5e-6, 1.2e-6, 3e-7, 1e-7, 1.2e-8, 1.5e-9)),
)


def model_rows(rng, count, agreement=1.0, tail=2.1):
    """Pairs (draft, target) of rows on 151,936 tokens that are as flat, and differ as much, as those of a real pair.

    PROFILES are the rows of a 0.5 B drafter for a 1.5 B target of the same family (temperature 1, 350 positions, in five
    classes by the mass of the 32 most probable tokens). `agreement` scales the disagreement among these 32, `tail` is the
    standard deviation of the log-ratio among the others.
    """
    for _ in range(count):
        _, disagreement, probs = PROFILES[rng.choice(5, p=[row[0] for row in PROFILES])]
        known = [*np.log(probs), np.log(probs[-1]) - 2.5, np.log(probs[-1]) - 7]
        draft = np.interp(np.log1p(np.arange(VOCAB)), RANKS, known)
        noise = rng.normal(0, 1, VOCAB)
        noise[:32] *= agreement * disagreement
        noise[32:] = tail * noise[32:] - tail**2 / 2
        order = rng.permutation(VOCAB)
        yield softmax(draft)[order], softmax(draft + noise)[order]


def test_weights_are_exact_sixteenth_roots():
    for code, weight in enumerate(WEIGHTS.tolist()):
        assert weight**16 <= 64**16 * 2**code < (weight + 1) ** 16


def test_probability_sampling_and_probs_are_the_same_rational_numbers():
    rng = np.random.default_rng(1)
    distribution = quantise(rng.dirichlet(np.ones(40)), 20)
    total = distribution.total_weight
    assert total == sum(distribution.weights.tolist())
    assert math.isclose(distribution.probs().sum(), 1, rel_tol=1e-12)
    edges = np.cumsum(distribution.weights.tolist()).tolist()
    for index, token in enumerate(distribution.token_ids.tolist()):
        low = edges[index - 1] if index else 0
        assert distribution.probability(token) == distribution.probs()[index]
        first = math.ceil(Fraction(low, total) * 2**53)
        last = math.ceil(Fraction(edges[index], total) * 2**53) - 1
        assert distribution.sample(first * 2.0**-53) == token
        assert distribution.sample(last * 2.0**-53) == token


def test_tokens_that_are_not_listed_have_no_probability():
    distribution = quantise(np.array([0.0, 0.5, 0.0, 0.5]), 4)
    assert distribution.token_ids.tolist() == [1, 3]
    assert [distribution.probability(t) for t in (-1, 0, 2, 4, 2**40)] == [0] * 5


def test_point_mass_is_certain():
    certain = point_mass(151_935)
    assert certain.probability(151_935) == 1
    assert {certain.sample(u) for u in (0.0, 0.5, 1 - 2.0**-53)} == {151_935}


def test_quantise_keeps_the_most_probable_until_the_coverage():
    probs = np.array([0.05, 0.5, 0.3, 0.1, 0.04, 0.01])
    assert quantise(probs, 6, coverage=0.85).token_ids.tolist() == [1, 2, 3]
    assert quantise(probs, 2).token_ids.tolist() == [1, 2]
    assert quantise(probs, 6, coverage=1.0).token_ids.tolist() == [0, 1, 2, 3, 4, 5]


def test_quantise_drops_what_is_too_small_for_a_code():
    distribution = quantise(np.array([1.0, 1e-4, 1e-6]), 3, coverage=1.0)
    assert distribution.token_ids.tolist() == [0, 1]


def test_quantised_probabilities_are_close():
    rng = np.random.default_rng(2)
    probs = rng.dirichlet(np.full(32, 0.5))
    distribution = quantise(probs, 32, coverage=1.0)
    ratio = distribution.probs() / probs[distribution.token_ids]
    # Half a code either way, and the sum moves by at most as much again.
    assert np.abs(np.log2(ratio)).max() < 2 / 16


@pytest.mark.parametrize(
    "probs",
    [
        np.zeros(4),
        np.array([0.5, -0.1]),
        np.array([np.nan, 1.0]),
        np.array([np.inf, 1.0]),
        np.ones((2, 2)),
    ],
)
def test_quantise_refuses_what_is_no_distribution(probs):
    with pytest.raises(ValueError, match="one row of finite non-negative"):
        quantise(probs, 4)


@pytest.mark.parametrize("entries", [0, 65])
def test_quantise_refuses_entry_counts_beyond_the_wire(entries):
    with pytest.raises(ValueError, match="max_entries"):
        quantise(np.ones(4), entries)


@pytest.mark.parametrize(
    ("ids", "codes"),
    [([], []), ([1, 1], [0, 0]), ([2, 1], [0, 0]), ([1], [0, 0]), (list(range(65)), [0] * 65)],
)
def test_impossible_distributions_cannot_be_built(ids, codes):
    with pytest.raises(MalformedDistribution):
        DraftDistribution(np.array(ids, np.uint32), np.array(codes, np.uint8))


def test_round_trip_keeps_everything():
    rng = np.random.default_rng(3)
    for _ in range(200):
        count = int(rng.integers(1, 9))
        sent = []
        for _ in range(count):
            size = int(rng.integers(1, 65))
            ids = np.sort(rng.choice(VOCAB, size, replace=False)).astype(np.uint32)
            sent.append(DraftDistribution(ids, rng.integers(0, 256, size).astype(np.uint8)))
        received = unpack(pack(sent), VOCAB, 64, count)
        assert received == tuple(sent)
        assert [d.total_weight for d in received] == [d.total_weight for d in sent]
        assert hash(received[0]) == hash(sent[0])


def test_drafts_without_distributions_cost_no_bytes():
    assert pack([]) == b""
    assert unpack(b"", VOCAB, 32, 5) == ()


def test_a_sampled_token_costs_well_below_100_bytes_on_a_large_vocabulary():
    rng = np.random.default_rng(4)
    sent = [quantise(draft, 32) for draft, _ in model_rows(rng, 80)]
    assert len(pack(sent)) / len(sent) <= 80


def test_the_size_bound_does_not_rest_on_concentration():
    """Spread-out ids and 32 entries always: the costliest rows that a top-32 drafter can send, on average."""
    rng = np.random.default_rng(5)
    sent = []
    for _ in range(200):
        ids = np.sort(rng.choice(VOCAB, 32, replace=False)).astype(np.uint32)
        sent.append(DraftDistribution(ids, np.full(32, MAX_CODE, np.uint8)))
    assert len(pack(sent)) / len(sent) <= 100


@pytest.mark.parametrize(
    ("agreement", "tail", "overlap"), [(1.0, 2.1, 0.66), (0.6, 1.8, 0.79), (0.3, 1.8, 0.88)]
)
def test_acceptance_stays_within_one_percent_of_the_full_distribution(agreement, tail, overlap):
    """Acceptance is the overlap sum(min(p, q)) of target and draft (Leviathan et al. 2023, corollary 3.6)."""
    rng = np.random.default_rng(6)
    full, quantised, mass = [], [], []
    for draft, target in model_rows(rng, 80, agreement, tail):
        sent = quantise(draft, 32)
        full.append(np.minimum(target, draft).sum())
        quantised.append(np.minimum(target[sent.token_ids], sent.probs()).sum())
        mass.append(np.sort(draft)[-32:].sum())
    # The rows are what they are meant to be: neither so steep nor so alike that the claim is empty.
    assert 0.90 < np.mean(mass) < 0.96
    assert abs(np.mean(full) - overlap) < 0.05
    assert np.mean(quantised) >= 0.99 * np.mean(full)
