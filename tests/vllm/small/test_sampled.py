"""Sampled output has the target's distribution, with the devices' distributions, with point masses, and with both in
one step.
"""

from __future__ import annotations

from array import array
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chisquare

from sled_protocol.distribution import DraftDistribution, quantise
from sled_speculation.randomness import Purpose, uniform
from sled_speculation.sampling import SamplingParams
from sled_speculation.transforms import TokenSet, target_probs
from sled_testkit.vllm import Lab
from sled_verifier.vllm.runtime import Start, StepOrder, Trial

SAMPLES = 4000
FALSE_ALARM = 1e-5
PROMPT = list(range(40, 52))
PARAMS = SamplingParams(temperature=1.3, top_k=5, top_p=0.97, repetition_penalty=1.1)


class Target:
    """The model's own distributions, computed by transformers and our transforms."""

    def __init__(self, folder: Path) -> None:
        from transformers import LlamaForCausalLM

        self._model: Any = LlamaForCausalLM.from_pretrained(folder).eval()
        self._known: dict[tuple[int, ...], NDArray[np.float64]] = {}

    def probs(self, tokens: tuple[int, ...]) -> NDArray[np.float64]:
        import torch

        if tokens not in self._known:
            with torch.no_grad():
                logits = self._model(torch.tensor([tokens])).logits[0, -1].double().numpy()
            self._known[tokens] = target_probs(logits, PARAMS, TokenSet(tokens))
        return self._known[tokens]


@pytest.fixture(scope="module")
def target(model: tuple[Path, Path]) -> Target:
    return Target(model[0])


def drafter(target: Target, tokens: tuple[int, ...]) -> DraftDistribution:
    """A poor imitation of the target: flattened, with mass on a token that the target never takes."""
    probs = np.sqrt(target.probs(tokens))
    probs[7] += 0.2 * probs.sum()
    return quantise(probs / probs.sum(), 6)


def trial(target: Target, key: int, first: int, seed: int, *, with_probs: bool) -> Trial:
    """Two draft tokens after the foretold one, drawn from the drafter."""
    prefix = [*PROMPT, first]
    tokens: list[int] = []
    distributions = []
    for _ in range(2):
        draft = drafter(target, (*prefix, *tokens))
        position = len(prefix) + len(tokens)
        tokens.append(draft.sample(uniform(seed, position, Purpose.DRAFT, len(prefix))))
        distributions.append(draft)
    return Trial(key, tuple(tokens), tuple(distributions) if with_probs else ())


def sample(lab: Lab, target: Target, kind: str) -> tuple[list[tuple[int, ...]], int]:
    """Outputs (foretold token, then those of the trial), and how many draft tokens were accepted."""
    outputs: list[tuple[int, ...]] = []
    accepted = 0
    for start in range(0, SAMPLES, 16):
        seeds = range(start, start + 16)
        keys = {seed: 100_000 + seed for seed in seeds}
        starts = tuple(
            Start(
                keys[seed],
                array("I", PROMPT),
                SamplingParams(
                    temperature=PARAMS.temperature,
                    top_k=PARAMS.top_k,
                    top_p=PARAMS.top_p,
                    repetition_penalty=PARAMS.repetition_penalty,
                    seed=seed,
                ),
            )
            for seed in seeds
        )
        first: dict[int, int] = {}
        order = StepOrder(start=starts)
        while len(first) < len(starts):
            report = lab.thread.submit(lab.runtime.run, order).result()
            first.update({output.key: output.tokens[0] for output in report.outputs})
            order = StepOrder()
        trials = tuple(
            trial(
                target,
                key,
                first[key],
                seed,
                with_probs=kind == "distributions" or (kind == "both" and seed % 2 == 0),
            )
            for seed, key in keys.items()
        )
        report = lab.thread.submit(lab.runtime.run, StepOrder(trials=trials)).result()
        for output in report.outputs:
            outputs.append((first[output.key], *output.tokens))
            accepted += len(output.tokens) - 1
        lab.thread.submit(lab.runtime.run, StepOrder(stop=tuple(keys.values()))).result()
    return outputs, accepted


def p_value(counts: Counter[int], probs: NDArray[np.float64]) -> float:
    """Chi-square of observed tokens against their distribution; rare cells are pooled."""
    total = counts.total()
    common = np.flatnonzero(probs * total >= 8)
    observed = [counts[int(token)] for token in common]
    expected = list(probs[common] * total)
    rest = total - sum(expected)
    if rest > 1e-6 * total:
        observed.append(total - sum(observed))
        expected.append(rest)
    elif sum(observed) != total:
        return 0.0
    return float(chisquare(observed, np.array(expected) / sum(expected) * total).pvalue)


@pytest.mark.parametrize("kind", ["distributions", "point masses", "both"])
def test_output_has_the_targets_distribution(lab: Lab, target: Target, kind: str) -> None:
    """4,000 sequences; at most 1 + 5 + 3 chi-square tests at 1e-5 / 9 each, so a false alarm has
    probability 1e-5.
    """
    outputs, accepted = sample(lab, target, kind)
    assert len(outputs) == SAMPLES
    assert accepted > SAMPLES // 20
    tests = [p_value(Counter(o[0] for o in outputs), target.probs(tuple(PROMPT)))]
    firsts = Counter(o[0] for o in outputs)
    for first in firsts:
        chosen = Counter(o[1] for o in outputs if o[0] == first)
        tests.append(p_value(chosen, target.probs((*PROMPT, first))))
    pairs = Counter(o[:2] for o in outputs if len(o) > 2)
    for pair, _ in pairs.most_common(3):
        chosen = Counter(o[2] for o in outputs if len(o) > 2 and o[:2] == pair)
        tests.append(p_value(chosen, target.probs((*PROMPT, *pair))))
    assert len(tests) <= 9
    assert min(tests) > FALSE_ALARM / 9
