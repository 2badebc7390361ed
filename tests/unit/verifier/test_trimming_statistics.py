"""Trimmed drafts leave sampled output with the target's own distribution: chi-square over many seeds.

Sixteen sequences at a time go through the scheduler with a load policy for which some draft tokens pay and others do not, in
virtual time. The joint distribution of the first two output tokens of 8,000 sequences (64 cells) is compared with the exact
one. A policy that looks at drawn tokens, which the rule forbids, is so wrong that the same test catches it.

False alarms: a case fails when its p-value is below ALARM / 2; the chance that any of the two cases fails although the rule is
right is at most ALARM = 1e-6 (Bonferroni). Seeds are fixed, so a run that passes always passes.
"""

from __future__ import annotations

import functools
from array import array
from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy import stats

from sled_protocol.distribution import DraftDistribution, quantise
from sled_protocol.prefix import prefix_hash
from sled_speculation.randomness import Purpose, uniform
from sled_speculation.sampling import AcceptanceMode, SamplingParams
from sled_speculation.step_cost import StepShape
from sled_speculation.transforms import TokenSet, target_probs
from sled_speculation.trimming import DraftedRound, survival_of
from sled_testkit.verifier_simulation import Clock
from sled_verifier.engine.fake import CostModel, FakeEngine, ToyModel
from sled_verifier.job import run_job
from sled_verifier.limits import Limits
from sled_verifier.load_control import Candidate, LoadControl
from sled_verifier.rounds import DraftRequest, OpenRequest, RoundVerdict
from sled_verifier.scheduler import Scheduler

VOCAB = 8
PROMPT = (5, 2)
TOGETHER = 16
SEQUENCES = 8_000
FEWER = 3_200
ALARM = 1e-6
TARGET = ToyModel(VOCAB, seed=3, order=1, scale=1.0)
OTHER = ToyModel(VOCAB, seed=4, order=1, scale=1.4)
PARAMS = SamplingParams(temperature=1.0)
COST = CostModel(step_seconds=0.02, token_seconds=0.001)


@functools.cache
def target_row(last: int) -> np.ndarray:
    return target_probs(TARGET.logits([last]), PARAMS, TokenSet())


@functools.cache
def drafter_row(last: int) -> DraftDistribution:
    return quantise(
        target_probs(TARGET.logits([last]) + OTHER.logits([last]), PARAMS, TokenSet()), 8
    )


class Peeking(LoadControl):
    """What the rule forbids: token i is verified in view of how probable the drawn token i is."""

    def _drafted(self, candidate: Candidate) -> DraftedRound:
        draft = candidate.draft
        pairs = zip(draft.draft_tokens, draft.distributions, strict=True)
        seen = survival_of([0.3 + 0.7 * d.probability(token) for token, d in pairs])
        return DraftedRound(seen, seen)


@dataclass
class Run:
    counts: np.ndarray = field(default_factory=lambda: np.zeros((VOCAB, VOCAB)))
    verdicts: list[tuple[int, RoundVerdict]] = field(default_factory=list)


class Crowd:
    """Sequences that go through one scheduler, `TOGETHER` at a time."""

    def __init__(self, control: LoadControl, mode: AcceptanceMode) -> None:
        self.clock = Clock()
        self.engine = FakeEngine(model=TARGET, slots=TOGETHER, cost=COST, sleep=self.clock.sleep)
        self.scheduler = Scheduler(self.engine.info, Limits(), control=control)
        self.mode = mode
        self.result = Run()
        for tokens in (16, 24, 32, 48, 64, 80):
            shape = StepShape(tokens, 16, 160)
            control.measured([(shape, COST.seconds(tokens, 16))])

    def run(self, sequences: int) -> Run:
        for first in range(0, sequences, TOGETHER):
            self._write(range(first, first + TOGETHER))
        return self.result

    def _write(self, seeds: range) -> None:
        open_: dict[int, tuple[int, list[int]]] = {}
        for seed in seeds:
            sampling = SamplingParams(temperature=1.0, seed=seed, mode=self.mode)
            request = OpenRequest(f"d{seed % 5}", array("I", PROMPT), array("I"), sampling)
            open_[self.scheduler.open(request, self.clock.now).key] = (seed, [])
        asked = dict.fromkeys(open_, 0)
        while open_:
            for key, (seed, output) in open_.items():
                if key in asked:
                    self.scheduler.submit(key, self._draft(seed, output), self.clock.now)
            asked = {}
            job = self.scheduler.plan(self.clock.now)
            assert job is not None
            done = run_job(self.engine, job, self.clock)
            for outcome in self.scheduler.apply(job, done, self.clock.now):
                verdict = outcome.result
                assert isinstance(verdict, RoundVerdict)
                self.result.verdicts.append((len(outcome.draft.draft_tokens), verdict))
                output = open_[outcome.key][1]
                output += [*outcome.draft.draft_tokens[: verdict.accepted], verdict.next_token]
                asked[outcome.key] = 1
                if len(output) >= 2:
                    self.result.counts[output[0], output[1]] += 1
                    self.scheduler.close(outcome.key)
                    del open_[outcome.key]
                    del asked[outcome.key]

    def _draft(self, seed: int, output: list[int]) -> DraftRequest:
        at = [*PROMPT, *output]
        tokens: list[int] = []
        distributions = []
        for _ in range(4):
            last = [*at, *tokens][-1]
            distribution = drafter_row(last)
            u = uniform(seed, len(at) + len(tokens), Purpose.DRAFT, len(at))
            tokens.append(distribution.sample(u))
            distributions.append(distribution)
        given = tuple(distributions) if self.mode is AcceptanceMode.REJECTION else ()
        return DraftRequest(len(output), prefix_hash(at), tuple(tokens), given)


def p_value(counts: np.ndarray) -> float:
    first = target_row(PROMPT[-1])
    expected = np.array([first[t] * target_row(t) for t in range(VOCAB)]).ravel() * counts.sum()
    order = np.argsort(expected)
    observed, expected = counts.ravel()[order], expected[order]
    pooled = int(np.searchsorted(np.cumsum(expected), 10)) + 1
    observed = np.append(observed[pooled:], observed[:pooled].sum())
    expected = np.append(expected[pooled:], expected[:pooled].sum())
    statistic = ((observed - expected) ** 2 / expected).sum()
    return float(stats.chi2.sf(statistic, expected.size - 1))


@pytest.mark.parametrize("mode", list(AcceptanceMode), ids=lambda mode: mode.value)
def test_trimmed_drafts_leave_the_targets_distribution(mode: AcceptanceMode) -> None:
    result = Crowd(LoadControl(8), mode).run(SEQUENCES)
    verified = [verdict.verified for _, verdict in result.verdicts]
    assert len(set(verified)) >= 4, "the case must see drafts cut at different lengths"
    cut = sum(verdict.verified < sent for sent, verdict in result.verdicts)
    assert cut > len(verified) / 4
    whole = [v for sent, v in result.verdicts if v.accepted == v.verified < sent]
    assert len(whole) > 1000
    assert all(verdict.bonus for verdict in whole)
    assert p_value(result.counts) > ALARM / 2


def test_a_policy_that_looks_at_drawn_tokens_is_caught() -> None:
    result = Crowd(Peeking(8), AcceptanceMode.REJECTION).run(FEWER)
    assert p_value(result.counts) < ALARM / 2
