"""Sampled output under a schema has the masked target's distribution, also where a device's distribution has much of its
mass on what the schema forbids.
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
from sled_speculation.sampling import Guide, SamplingParams
from sled_testkit.vllm import Lab
from sled_verifier.vllm.runtime import Start, StepOrder, Trial

SAMPLES = 2400
FALSE_ALARM = 1e-5
PROMPT = list(range(40, 52))
GUIDE = Guide('{"type": "string", "pattern": "^[abc]{3}$"}')
QUOTE, LETTERS, FORBIDDEN = ord('"'), tuple(b"abc"), 0
TEMPERATURE = 2.0


@pytest.fixture(scope="module")
def expected(model: tuple[Path, Path]) -> NDArray[np.float64]:
    """The target's distribution of the first letter, computed by transformers and masked here."""
    import torch
    from transformers import LlamaForCausalLM

    target: Any = LlamaForCausalLM.from_pretrained(model[0]).eval()
    with torch.no_grad():
        logits = target(torch.tensor([[*PROMPT, QUOTE]])).logits[0, -1].double().numpy()
    weights = np.exp((logits[list(LETTERS)] - logits.max()) / TEMPERATURE)
    return np.asarray(weights / weights.sum())


def draft_of(expected: NDArray[np.float64]) -> DraftDistribution:
    """Half of the mass on what the schema forbids, a third on the least likely letter."""
    probs = np.zeros(256)
    probs[FORBIDDEN] = 0.5
    order = np.argsort(expected)
    for share, place in zip((0.33, 0.12, 0.05), order, strict=True):
        probs[LETTERS[int(place)]] = share
    return quantise(probs, 6)


def letters(lab: Lab, draft: DraftDistribution, *, with_probs: bool) -> tuple[Counter[int], int]:
    """First letters of as many texts, and how many drafted ones were accepted."""
    seen: Counter[int] = Counter()
    accepted = 0
    for start in range(0, SAMPLES, 12):
        keys = {seed: 500_000 + seed for seed in range(start, start + 12)}
        starts = tuple(
            Start(
                key,
                array("I", PROMPT),
                SamplingParams(temperature=TEMPERATURE, seed=seed, guide=GUIDE),
            )
            for seed, key in keys.items()
        )
        first: dict[int, int] = {}
        order = StepOrder(start=starts)
        while len(first) < len(starts):
            report = lab.thread.submit(lab.runtime.run, order).result()
            first.update({output.key: output.tokens[0] for output in report.outputs})
            order = StepOrder()
        assert set(first.values()) == {QUOTE}
        trials = tuple(
            Trial(
                key,
                (draft.sample(uniform(seed, len(PROMPT) + 1, Purpose.DRAFT, 0)),),
                (draft,) if with_probs else (),
            )
            for seed, key in keys.items()
        )
        report = lab.thread.submit(lab.runtime.run, StepOrder(trials=trials)).result()
        for output in report.outputs:
            assert output.verified == 1
            seen[output.tokens[0]] += 1
            accepted += len(output.tokens) - 1
        lab.thread.submit(lab.runtime.run, StepOrder(stop=tuple(keys.values()))).result()
    return seen, accepted


@pytest.mark.parametrize("with_probs", [True, False], ids=["distributions", "point masses"])
def test_guided_output_has_the_masked_targets_distribution(
    lab: Lab, expected: NDArray[np.float64], with_probs: bool
) -> None:
    assert expected.min() > 0.02
    seen, accepted = letters(lab, draft_of(expected), with_probs=with_probs)
    assert seen.total() == SAMPLES
    assert accepted > SAMPLES // 20
    observed = [seen[letter] for letter in LETTERS]
    assert sum(observed) == SAMPLES
    assert chisquare(observed, expected * SAMPLES).pvalue > FALSE_ALARM
