"""Sampled text has the target's distribution, with everything that the loop does to drafts in between."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from sled_edge.config import DraftingMode
from sled_edge.drafter.fake import FakeDrafter
from sled_edge.fake_link import FakeLink, ToyTarget
from sled_edge.generation import GenerationRequest
from sled_speculation.draft_length_policy import FixedDraftLength
from sled_speculation.sampling import SamplingParams
from sled_speculation.transforms import TokenSet, target_probs
from sled_testkit.edge import collect, running_loop, settings

PROMPT = (2, 1)
TEXTS = 2000
TOKENS = 3


def _expected(target: ToyTarget, sampling: SamplingParams) -> dict[tuple[int, ...], float]:
    """Probability of every text of `TOKENS` tokens, by the chain rule."""
    texts: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(TOKENS):
        longer: dict[tuple[int, ...], float] = {}
        for text, probability in texts.items():
            prefix = (*PROMPT, *text)
            probs = target_probs(target.logits(prefix), sampling, TokenSet(prefix))
            for token in np.flatnonzero(probs).tolist():
                longer[(*text, token)] = probability * float(probs[token])
        texts = longer
    return texts


class _Wary(FixedDraftLength):
    """Stops after a token that the drafter was unsure of, as devices do."""

    def keep_drafting(self, confidences: Sequence[float]) -> bool:
        return super().keep_drafting(confidences) and (not confidences or confidences[-1] > 0.5)


@pytest.mark.parametrize("mode", list(DraftingMode))
async def test_texts_are_distributed_as_the_targets_own(mode: DraftingMode) -> None:
    """Chi-square over all texts of 3 tokens, rare ones pooled. False alarm: 1 in a million per mode (seeds are fixed)."""
    target = ToyTarget(vocab_size=3, order=1, salt=4)
    params = {"temperature": 1.5, "repetition_penalty": 1.2}
    expected = _expected(target, SamplingParams(**params))
    # One that does not generate drafts from the first round on.
    drafter = FakeDrafter(target.logits, accuracy=0.2, generates=False)
    counts: Counter[tuple[int, ...]] = Counter()
    busy = settings(mode=mode, sequences=8)
    link = FakeLink(target)
    async with running_loop(link, drafter, busy, lambda: _Wary(2)) as loop:

        async def some(first_seed: int) -> None:
            for seed in range(first_seed, TEXTS, 8):
                sampling = SamplingParams(**params, seed=seed)
                text = await collect(loop, GenerationRequest(PROMPT, TOKENS, sampling))
                counts[tuple(text.tokens)] += 1

        await asyncio.gather(*(some(number) for number in range(8)))
    # Drafts of every length were judged, so there was something to go wrong.
    assert {len(draft.tokens) for draft in link.rounds} == {0, 1, 2}
    assert set(counts) <= set(expected)
    common = [text for text, p in expected.items() if p * TEXTS >= 5]
    observed = [counts[text] for text in common]
    predicted = [expected[text] * TEXTS for text in common]
    rest = sum(p for text, p in expected.items() if text not in set(common)) * TEXTS
    if rest >= 1:
        observed.append(TEXTS - sum(observed))
        predicted.append(rest)
    scaled = np.array(predicted) * (sum(observed) / sum(predicted))
    assert len(common) > 12
    assert stats.chisquare(observed, scaled).pvalue > 1e-6
