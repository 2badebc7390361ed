"""Sampled output has the target's own distribution, whatever is drafted: chi-square over many seeds.

A toy target of 8 tokens; 50,000 sequences for each mode, temperature and transform; the joint distribution of the first two
output tokens (64 cells, and so the first token's too) against the exact one. Draft lengths 1 and 2 by turns, so the second
token is sometimes accepted, sometimes recovered, sometimes a bonus, sometimes of a second round. Wrong rules are so wrong
that 10,000 sequences catch them.

False alarms: a case fails when its p-value is below ALARM / CASES; the chance that any case of this file fails although the
rule is right is at most ALARM = 1e-6 (Bonferroni). Seeds are fixed, so a run that passes always passes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from sled_protocol.distribution import DraftDistribution, quantise
from sled_speculation import acceptance
from sled_speculation.acceptance import Judgement, judge_draft, verify_draft
from sled_speculation.choice import inverse_transform, target_token
from sled_speculation.drafting import draft_token
from sled_speculation.randomness import Purpose, uniform
from sled_speculation.sampling import AcceptanceMode, SamplingParams
from sled_speculation.transforms import TokenSet, target_probs

VOCAB = 8
PROMPT = (5, 2)
SEQUENCES = 50_000
FEWER = 10_000
ALARM = 1e-6
CASES = 40
TABLES = np.random.default_rng(17).normal(0, 1.5, (2, VOCAB, VOCAB)).astype(np.float32)
TARGET = TABLES[0]
DRAFTER = TABLES[0] + 0.8 * TABLES[1]

Prefix = tuple[int, ...]


@dataclass(frozen=True)
class Toy:
    """Target and drafter are tables by the last token; everything they say is remembered by prefix."""

    params: SamplingParams
    max_entries: int = 8

    def target(self, prefix: Prefix):
        return _probs(0, prefix, self.params)

    def draft(self, prefix: Prefix) -> DraftDistribution:
        return _quantised(prefix, self.params, self.max_entries)


@functools.cache
def _probs(model: int, prefix: Prefix, params: SamplingParams):
    row = (TARGET, DRAFTER)[model][prefix[-1]]
    return target_probs(row, params, TokenSet(prefix))


@functools.cache
def _quantised(prefix: Prefix, params: SamplingParams, entries: int) -> DraftDistribution:
    return quantise(_probs(1, prefix, params), entries, coverage=1.0)


Draft = tuple[list[int], list[DraftDistribution]]
Drafting = Callable[[Toy, int, Prefix, int], Draft]


def sampled_draft(toy: Toy, seed: int, prefix: Prefix, length: int) -> Draft:
    tokens: list[int] = []
    distributions = []
    for _ in range(length):
        at = (*prefix, *tokens)
        distribution = toy.draft(at)
        u = uniform(seed, len(at), Purpose.DRAFT, len(prefix))
        tokens.append(distribution.sample(u))
        distributions.append(distribution)
    return tokens, distributions


def point_mass_draft(toy: Toy, seed: int, prefix: Prefix, length: int) -> Draft:
    """The drafter's most probable tokens at even seeds, a fixed guess at odd ones, as an n-gram drafter would."""
    tokens: list[int] = []
    for _ in range(length):
        at = (*prefix, *tokens)
        tokens.append(int(_probs(1, at, toy.params).argmax()) if seed % 2 else (at[-1] + 3) % VOCAB)
    return tokens, []


def racing_draft(toy: Toy, seed: int, prefix: Prefix, length: int) -> Draft:
    tokens: list[int] = []
    for _ in range(length):
        at = (*prefix, *tokens)
        tokens.append(target_token(_probs(1, at, toy.params), seed, len(at)))
    return tokens, []


def judged(toy: Toy, seed: int, prefix: Prefix, draft: Draft) -> Judgement:
    tokens, distributions = draft
    return judge_draft(
        lambda index: toy.target((*prefix, *tokens[:index])),
        tokens,
        distributions,
        toy.params.mode,
        seed,
        len(prefix),
    )


@dataclass
class Run:
    counts: np.ndarray
    accepted: int = 0
    drafted: int = 0


def run(toy: Toy, drafting: Drafting, sequences: int = SEQUENCES) -> Run:
    result = Run(np.zeros((VOCAB, VOCAB)))
    for seed in range(sequences):
        output: Prefix = ()
        while len(output) < 2:
            prefix = PROMPT + output
            draft = drafting(toy, seed, prefix, min(1 + seed // 2 % 2, 2 - len(output)))
            judgement = judged(toy, seed, prefix, draft)
            output += judgement.output(draft[0])
            result.accepted += judgement.accepted
            result.drafted += judgement.accepted + (not judgement.bonus)
        result.counts[output[0], output[1]] += 1
    return result


def expected_joint(toy: Toy):
    first = toy.target(PROMPT)
    return np.array([first[t] * toy.target((*PROMPT, t)) for t in range(VOCAB)])


def p_value(counts, probs) -> float:
    """Chi-square goodness of fit; the rarest cells are pooled until they expect 10, a cell that expects none must be empty."""
    expected = probs.ravel() * counts.sum()
    observed = counts.ravel()
    if observed[expected == 0].any():
        return 0.0
    observed, expected = observed[expected > 0], expected[expected > 0]
    order = np.argsort(expected)
    observed, expected = observed[order], expected[order]
    pooled = int(np.searchsorted(np.cumsum(expected), 10)) + 1
    observed = np.append(observed[pooled:], observed[:pooled].sum())
    expected = np.append(expected[pooled:], expected[:pooled].sum())
    statistic = ((observed - expected) ** 2 / expected).sum()
    return float(stats.chi2.sf(statistic, expected.size - 1))


def assert_targets_own(result: Run, toy: Toy) -> None:
    assert p_value(result.counts, expected_joint(toy)) > ALARM / CASES
    rate = result.accepted / result.drafted
    assert 0.05 < rate < 0.95, "the case must see both acceptances and rejections"


REJECTION, MATCH = AcceptanceMode.REJECTION, AcceptanceMode.MATCH
MODES = {
    "all-entries": (REJECTION, 8, sampled_draft),
    "three-entries": (REJECTION, 3, sampled_draft),
    "point-mass": (REJECTION, 8, point_mass_draft),
    "match": (MATCH, 8, racing_draft),
}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("name", MODES)
def test_every_mode_at_every_temperature(name, temperature):
    mode, entries, drafting = MODES[name]
    toy = Toy(SamplingParams(temperature=temperature, mode=mode), entries)
    assert_targets_own(run(toy, drafting), toy)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1.0, top_k=5),
        SamplingParams(temperature=1.0, top_p=0.8),
        SamplingParams(temperature=1.0, min_p=0.1),
        SamplingParams(temperature=1.0, repetition_penalty=1.6),
    ],
    ids=["top-k", "top-p", "min-p", "repetition-penalty"],
)
def test_every_transform(params):
    toy = Toy(params, 4)
    assert_targets_own(run(toy, sampled_draft), toy)


def test_from_logits_with_everything_on():
    """The whole path: draft_token on the device's side, verify_draft on the server's, all parameters, both modes mixed."""
    params = SamplingParams(
        temperature=0.9, repetition_penalty=1.2, top_k=6, top_p=0.95, min_p=0.02, seed=0
    )
    counts = np.zeros((VOCAB, VOCAB))
    for seed in range(FEWER):
        mode = (REJECTION, MATCH)[seed % 4 == 0]
        keyed = SamplingParams(0.9, 1.2, 6, 0.95, 0.02, seed, mode)
        output: Prefix = ()
        while len(output) < 2:
            output += _round_from_logits(keyed, PROMPT + output)
        counts[output[0], output[1]] += 1
    assert p_value(counts, expected_joint(Toy(params))) > ALARM / CASES


def _round_from_logits(params: SamplingParams, prefix: Prefix) -> Prefix:
    start = len(prefix)
    token, distribution, _ = draft_token(
        DRAFTER[prefix[-1]], params, TokenSet(prefix), start, 4, round_start=start
    )
    logits = TARGET[[prefix[-1], token]]
    distributions = [] if distribution is None else [distribution]
    judgement = verify_draft(logits, [token], distributions, params, TokenSet(prefix), start)
    return judgement.output([token])


# ---- the test must be able to fail: rules that look right and are not ---------------------------------------------


def recover_from_target(probs, token, draft, seed, position):
    """Recovers from the target instead of the residual."""
    if uniform(seed, position, Purpose.ACCEPT) * draft.probability(token) < probs[token]:
        return token
    return inverse_transform(probs, uniform(seed, position, Purpose.RECOVER))


def no_clamping(probs, token, draft, seed, position):
    """Takes the size of target - draft where the residual has to be cut off at 0."""
    if uniform(seed, position, Purpose.ACCEPT) * draft.probability(token) < probs[token]:
        return token
    residual = probs.copy()
    residual[draft.token_ids] -= draft.probs()
    return inverse_transform(np.abs(residual), uniform(seed, position, Purpose.RECOVER))


def one_number_for_both(probs, token, draft, seed, position):
    """Uses the number that chose the draft token once more to accept it."""
    u = uniform(seed, position, Purpose.DRAFT, len(PROMPT))
    if u * draft.probability(token) < probs[token]:
        return token
    residual = probs.copy()
    residual[draft.token_ids] -= draft.probs()
    residual = np.maximum(residual, 0)
    return inverse_transform(residual, u) if residual.any() else token


@pytest.mark.parametrize("rule", [recover_from_target, no_clamping, one_number_for_both])
def test_wrong_acceptance_rules_are_caught(rule, monkeypatch):
    monkeypatch.setattr(acceptance, "judge_token", rule)
    toy = Toy(SamplingParams(temperature=1.0), 8)
    assert p_value(run(toy, sampled_draft, FEWER).counts, expected_joint(toy)) < ALARM / CASES


def as_point_mass(toy: Toy, seed: int, prefix: Prefix, length: int) -> Draft:
    """Sends no distribution: right for any guess that does not know the verifier's numbers."""
    return sampled_draft(toy, seed, prefix, length)[0], []


def unsure_tokens_dropped(toy: Toy, seed: int, prefix: Prefix, length: int) -> Draft:
    """Breaks rule 1 of `acceptance`: draws a token and keeps it to itself when it is improbable."""
    tokens, distributions = sampled_draft(toy, seed, prefix, length)
    sure = 0
    while sure < len(tokens) and distributions[sure].probability(tokens[sure]) > 0.3:
        sure += 1
    return tokens[:sure], distributions[:sure]


def unsure_tokens_last(toy: Toy, seed: int, prefix: Prefix, length: int) -> Draft:
    """Keeps rule 1: stops after the first improbable token, which is sent."""
    tokens, distributions = sampled_draft(toy, seed, prefix, length)
    sure = 0
    while sure < len(tokens) and distributions[sure].probability(tokens[sure]) > 0.3:
        sure += 1
    return tokens[: sure + 1], distributions[: sure + 1]


def test_a_sampled_draft_without_its_distribution_is_still_lossless():
    toy = Toy(SamplingParams(temperature=1.0), 8)
    assert_targets_own(run(toy, as_point_mass, FEWER), toy)


def test_stopping_after_an_unsure_token_is_lossless():
    toy = Toy(SamplingParams(temperature=1.0), 8)
    assert_targets_own(run(toy, unsure_tokens_last, FEWER), toy)


def test_dropping_an_unsure_token_is_caught():
    toy = Toy(SamplingParams(temperature=1.0), 8)
    result = run(toy, unsure_tokens_dropped, FEWER)
    assert p_value(result.counts, expected_joint(toy)) < ALARM / CASES


def second_round_in_view_of_the_first(fresh: bool) -> Drafting:
    """Drafts two tokens; when the first is rejected, drafts again only if the discarded second one was probable."""

    def drafting(toy: Toy, seed: int, prefix: Prefix, length: int) -> Draft:
        if len(prefix) == len(PROMPT):
            return _two_tokens(toy, seed, prefix)
        discarded, distributions = _two_tokens(toy, seed, PROMPT)
        if distributions[1].probability(discarded[1]) < 0.3:
            return [], []
        distribution = toy.draft(prefix)
        start = len(prefix) if fresh else len(PROMPT)
        return [distribution.sample(uniform(seed, len(prefix), Purpose.DRAFT, start))], [
            distribution
        ]

    return drafting


def _two_tokens(toy: Toy, seed: int, prefix: Prefix) -> tuple[list[int], list[DraftDistribution]]:
    return sampled_draft(toy, seed, prefix, 2)


def test_lengths_chosen_in_view_of_a_discarded_draft_are_lossless_with_fresh_randomness():
    toy = Toy(SamplingParams(temperature=1.0), 8)
    assert_targets_own(run(toy, second_round_in_view_of_the_first(fresh=True), FEWER), toy)


def test_lengths_chosen_in_view_of_a_discarded_draft_are_caught_with_its_randomness():
    """Why `Purpose.DRAFT` is keyed by the start of the round too."""
    toy = Toy(SamplingParams(temperature=1.0), 8)
    result = run(toy, second_round_in_view_of_the_first(fresh=False), FEWER)
    assert p_value(result.counts, expected_joint(toy)) < ALARM / CASES


def test_number_of_cases_covers_this_file():
    """The Bonferroni bound counts every chi-square that could raise a false alarm."""
    checks = len(MODES) * 3 + 4 + 1 + 3
    assert checks <= CASES
