"""The verifier's logits are the target's own, bit for bit, whatever else is in the batch
(docs/adr/0003).
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from sled_testkit.exactness import Crowd
from sled_verifier.engine.base import StepItem
from sled_verifier.engine.llamacpp import LlamaCppEngine

pytestmark = pytest.mark.models
Subject = Any
"""The fixture's class (conftest.py)."""

BATCH_SIZES = range(1, 17)
DRAFT_LENGTHS = range(17)


def test_the_engine_claims_it(subject: Subject) -> None:
    assert subject.crowd_engine.info.exactness == "bit-invariant"


def test_every_batch_size_with_every_draft_length(
    subject: Subject, empty_engine: LlamaCppEngine
) -> None:
    """Prompts of 1 to 2,000 tokens in mixed chunks beside verification, then 1 to 16 sequences a
    step, 0 to 16 draft tokens each, right for a while and then wrong, rolled back every time.
    """
    crowd = Crowd(empty_engine, subject.references, seed=7)
    crowd.load()
    crowd.cover(BATCH_SIZES, DRAFT_LENGTHS)
    tally = crowd.tally
    assert tally.pairs >= set(product(BATCH_SIZES, DRAFT_LENGTHS))
    assert tally.rows > 1_000
    assert (tally.rows_differing, tally.largest_deviation) == (0, 0.0)


def test_a_shared_prefix_is_the_prefix(subject: Subject, empty_engine: LlamaCppEngine) -> None:
    """One sequence is computed, copied to two slots at different lengths, and its own slot is
    overwritten.
    """
    reference = subject.references[-3]
    whole = (*reference.prompt, *reference.output)
    cut = len(reference.prompt) - 5
    for start in range(0, len(whole), 256):
        empty_engine.step([StepItem(2, start, whole[start : start + 256], 0)])
    empty_engine.copy_prefix(2, 9, cut)
    empty_engine.copy_prefix(2, 3, len(whole) - 1)
    empty_engine.truncate(2, 10)
    empty_engine.step([StepItem(2, 10, tuple(reversed(whole[:200])), 1)])
    long, short = empty_engine.step(
        [
            StepItem(9, cut, whole[cut : cut + 15], 11),
            StepItem(3, len(whole) - 1, whole[-1:], 1),
        ]
    )
    assert np.array_equal(long, reference.rows[:11])
    assert np.array_equal(short[0], reference.rows[-1])
