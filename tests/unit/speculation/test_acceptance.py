"""The acceptance rule where it is deterministic: greedy, match, edges, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from sled_protocol.distribution import point_mass, quantise
from sled_speculation.acceptance import (
    Judgement,
    MalformedDraft,
    check_draft,
    judge_token,
    verify_draft,
)
from sled_speculation.choice import target_token
from sled_speculation.drafting import draft_token
from sled_speculation.sampling import AcceptanceMode, SamplingParams
from sled_speculation.transforms import TokenSet, UnusableLogits, target_probs

VOCAB = 50
TABLES = np.random.default_rng(23).normal(0, 2, (2, VOCAB, VOCAB)).astype(np.float32)
PROMPT = (7, 3, 7)


def target_row(prefix):
    """Logits that depend on the last two tokens, so that a wrong row index shows."""
    return TABLES[0][prefix[-1]] + TABLES[1][prefix[-2]]


def target_logits(prefix, draft):
    return np.stack([target_row((*prefix, *draft[:i])) for i in range(len(draft) + 1)])


def generate(params, drafter, length, wanted=40):
    """Rounds of `length` draft tokens until `wanted` output tokens are there."""
    output = ()
    while len(output) < wanted:
        prefix = PROMPT + output
        tokens, distributions = drafter(params, prefix, length)
        judgement = verify_draft(
            target_logits(prefix, tokens),
            tokens,
            distributions,
            params,
            TokenSet(prefix),
            len(prefix),
        )
        output += judgement.output(tokens)
    return output[:wanted]


def drafts_from(disagreement):
    """A model drafter: the target's table with noise."""
    noise = np.random.default_rng(5).normal(0, 1, VOCAB).astype(np.float32) * disagreement

    def drafter(params, prefix, length):
        tokens, distributions = [], []
        for _ in range(length):
            at = (*prefix, *tokens)
            token, distribution, _ = draft_token(
                target_row(at) + noise,
                params,
                TokenSet(at),
                len(at),
                16,
                round_start=len(prefix),
            )
            tokens.append(token)
            if distribution is not None:
                distributions.append(distribution)
        return tokens, distributions

    return drafter


def repeats(params, prefix, length):
    """An n-gram-like drafter: the last token over and over."""
    return [prefix[-1]] * length, []


def nothing(params, prefix, length):
    return [], []


DRAFTERS = {
    "perfect": drafts_from(0.0),
    "good": drafts_from(1.0),
    "bad": drafts_from(20.0),
    "repeats": repeats,
}


def argmax_path(penalty, wanted=40):
    """The target alone, written out without any code under test."""
    output = ()
    while len(output) < wanted:
        row = target_row(PROMPT + output).copy()
        for token in set(PROMPT + output):
            row[token] = row[token] / penalty if row[token] > 0 else row[token] * penalty
        output += (int(np.argmax(row)),)
    return output


@pytest.mark.parametrize("penalty", [1.0, 1.3])
@pytest.mark.parametrize("length", [1, 2, 3, 8, 16])
@pytest.mark.parametrize("name", DRAFTERS)
def test_greedy_output_is_the_targets_argmax_path(name, length, penalty):
    params = SamplingParams(repetition_penalty=penalty)
    assert generate(params, DRAFTERS[name], length) == argmax_path(np.float32(penalty))


def test_greedy_accepts_all_of_a_perfect_draft_and_nothing_of_a_wrong_one():
    path = argmax_path(1.0, 9)
    logits = target_logits(PROMPT, path[:8])
    everything = verify_draft(logits, path[:8], [], SamplingParams(), TokenSet(PROMPT), 3)
    assert everything == Judgement(8, path[8], bonus=True)
    wrong = (int(logits[0].argmin()), *path[1:8])
    nothing_kept = verify_draft(
        target_logits(PROMPT, wrong), wrong, [], SamplingParams(), TokenSet(PROMPT), 3
    )
    assert nothing_kept == Judgement(0, path[0], bonus=False)


@pytest.mark.parametrize("seed", range(5))
def test_match_output_does_not_depend_on_drafter_or_length(seed):
    params = SamplingParams(
        temperature=1.2,
        repetition_penalty=1.1,
        top_p=0.98,
        seed=seed,
        mode=AcceptanceMode.MATCH,
    )
    alone = generate(params, nothing, 0)
    for drafter in DRAFTERS.values():
        for length in (1, 2, 5, 16):
            assert generate(params, drafter, length) == alone


def test_match_is_the_race_on_the_targets_own_distribution():
    params = SamplingParams(temperature=1.0, seed=9, mode=AcceptanceMode.MATCH)
    output = generate(params, drafts_from(1.0), 4, wanted=12)
    for index, token in enumerate(output):
        prefix = PROMPT + output[:index]
        probs = target_probs(target_row(prefix), params, TokenSet())
        assert token == target_token(probs, 9, len(prefix))


def test_a_draft_equal_to_the_target_is_always_accepted():
    """Rejection needs u >= p / q; with p == q in exact powers of two that never happens."""
    probs = np.zeros(8)
    probs[[1, 5]] = 0.5
    draft = quantise(probs, 8)
    for seed in range(500):
        for token in (1, 5):
            assert judge_token(probs, token, draft, seed, 3) == token


def test_a_token_that_the_target_excludes_is_never_accepted():
    probs = np.array([0.0, 0.25, 0.75])
    draft = quantise(np.array([0.9, 0.05, 0.05]), 3)
    for seed in range(500):
        assert judge_token(probs, 0, draft, seed, 3) in (1, 2)
        assert judge_token(probs, 0, None, seed, 3) in (1, 2)


def test_a_certain_target_is_never_left():
    probs = np.array([0.0, 1.0, 0.0])
    draft = quantise(np.array([0.5, 0.5, 0.0]), 3)
    for seed in range(500):
        assert judge_token(probs, 0, draft, seed, 3) == 1
        assert judge_token(probs, 1, draft, seed, 3) == 1
        assert judge_token(probs, 1, None, seed, 3) == 1


def test_a_missing_distribution_and_one_with_a_single_entry_are_the_same():
    rng = np.random.default_rng(2)
    for seed in range(300):
        probs = rng.dirichlet(np.ones(6))
        assert judge_token(probs, 4, None, seed, 1) == judge_token(probs, 4, point_mass(4), seed, 1)


def test_a_verdict_depends_on_nothing_but_its_own_round():
    """Same logits inside another array, other memory layout, after other calls: the same verdict."""
    params = SamplingParams(temperature=0.8, top_p=0.9, seed=77)
    tokens, distributions = drafts_from(1.0)(params, PROMPT, 5)
    logits = target_logits(PROMPT, tokens)
    seen = TokenSet(PROMPT)
    first = verify_draft(logits, tokens, distributions, params, seen, 3)
    wide = np.asfortranarray(np.repeat(logits, 2, axis=0))[::2]
    assert verify_draft(wide, tuple(tokens), tuple(distributions), params, seen, 3) == first
    assert sorted(seen.ids.tolist()) == [3, 7]


def test_rows_after_the_first_rejection_are_not_looked_at():
    params = SamplingParams(temperature=1.0, top_k=1)
    logits = target_logits(PROMPT, (0, 0))
    logits[1:] = np.nan
    token = int(logits[0].argmin())
    judgement = verify_draft(logits, (token, 0), [], params, TokenSet(), 3)
    assert judgement == Judgement(0, int(logits[0].argmax()), bonus=False)


@pytest.mark.parametrize("mode", AcceptanceMode)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_unusable_logits_are_named(mode, temperature):
    params = SamplingParams(temperature=temperature, mode=mode)
    with pytest.raises(UnusableLogits):
        verify_draft(np.full((1, VOCAB), np.nan, np.float32), [], [], params, TokenSet(), 3)


@pytest.mark.parametrize(
    ("tokens", "distributions", "sentence"),
    [
        ([VOCAB], [], "draft token 0 is outside the vocabulary of 50"),
        ([0, -1], [], "draft token 1 is outside"),
        ([1, 2], [point_mass(1)], "2 draft tokens came with 1 distributions"),
        ([], [point_mass(1)], "0 draft tokens came with 1 distributions"),
        ([1], [point_mass(2)], "draft token 0 is not listed"),
        ([1], [quantise(np.ones(VOCAB + 1), 64)], "leaves the vocabulary"),
    ],
)
def test_drafts_that_make_no_sense_are_refused(tokens, distributions, sentence):
    with pytest.raises(MalformedDraft, match=sentence):
        check_draft(tokens, distributions, VOCAB)
    logits = np.zeros((len(tokens) + 1, VOCAB), np.float32)
    for params in (SamplingParams(), SamplingParams(temperature=1.0)):
        with pytest.raises(MalformedDraft, match=sentence):
            verify_draft(logits, tokens, distributions, params, TokenSet(), 3)


@pytest.mark.parametrize("shape", [(2, VOCAB), (4, VOCAB), (VOCAB,), (3, 1, VOCAB)])
def test_the_number_of_rows_is_checked(shape):
    with pytest.raises(MalformedDraft, match="need 3 rows"):
        verify_draft(np.zeros(shape, np.float32), [1, 2], [], SamplingParams(), TokenSet(), 3)
