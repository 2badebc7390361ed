"""Speculative decoding writes the target's own text: draft, step, accept, roll back, as the
verifier does it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest

from sled_speculation.acceptance import verify_draft
from sled_speculation.sampling import SamplingParams
from sled_speculation.transforms import TokenSet
from sled_testkit.exactness import Reference
from sled_verifier.engine.base import StepItem
from sled_verifier.engine.llamacpp import LlamaCppEngine

pytestmark = pytest.mark.models
Subject = Any
"""The fixture's class (conftest.py)."""

GREEDY = SamplingParams()
TOKENS = 16


@dataclass(slots=True)
class Device:
    """One device's sequence: `computed` tokens of prompt + output are in the slot."""

    reference: Reference
    slot: int
    draft_length: int
    computed: int
    output: list[int]

    def step_item(self, draft: tuple[int, ...]) -> StepItem:
        known = (*self.reference.prompt, *self.output)
        tokens = (*known[self.computed :], *draft)
        return StepItem(self.slot, self.computed, tokens, len(draft) + 1)


def draft(sequence: Device, skill: float, pick: random.Random) -> tuple[int, ...]:
    """Each token is right with probability `skill`, as a drafter's is."""
    at = len(sequence.output)
    right = sequence.reference.output[at : at + sequence.draft_length]
    return tuple(token if pick.random() < skill else pick.randrange(49152) for token in right)


def decode_together(
    engine: LlamaCppEngine, sequences: list[Device], skill: float, pick: random.Random
) -> None:
    """Rounds until every sequence has TOKENS tokens."""
    while running := [s for s in sequences if len(s.output) < TOKENS]:
        drafts = [draft(s, skill, pick) for s in running]
        items = [s.step_item(d) for s, d in zip(running, drafts, strict=True)]
        for sequence, tokens, item, logits in zip(
            running, drafts, items, engine.step(items), strict=True
        ):
            verdict = verify_draft(logits, tokens, (), GREEDY, TokenSet(), 0)
            sequence.output += verdict.output(tokens)
            sequence.computed = item.start_position + len(item.tokens) - len(tokens)
            sequence.computed += verdict.accepted
            engine.truncate(sequence.slot, sequence.computed)


@pytest.mark.parametrize(("batch", "skill"), [(1, 0.7), (2, 0.9), (6, 0.5), (16, 0.7)])
def test_the_text_is_the_targets_own(
    subject: Subject, empty_engine: LlamaCppEngine, batch: int, skill: float
) -> None:
    """Mixed sequences with draft lengths 1 to 16 spread over them."""
    pick = random.Random(batch)
    chosen = pick.sample([r for r in subject.references if len(r.prompt) < 600], min(batch, 15))
    if batch == 16:
        chosen.append(subject.references[-1])
    sequences = []
    for number, reference in enumerate(chosen):
        for start in range(0, len(reference.prompt) - 1, 256):
            chunk = reference.prompt[start : min(start + 256, len(reference.prompt) - 1)]
            empty_engine.step([StepItem(number, start, chunk, 0)])
        length = 1 + (number * 16 // batch + batch) % 16
        sequences.append(Device(reference, number, length, len(reference.prompt) - 1, []))
    decode_together(empty_engine, sequences, skill, pick)
    for sequence in sequences:
        assert tuple(sequence.output[:TOKENS]) == sequence.reference.output[:TOKENS]


def test_every_draft_length_alone(subject: Subject, empty_engine: LlamaCppEngine) -> None:
    reference = subject.references[5]
    pick = random.Random(3)
    for length in range(1, 17):
        prompt = reference.prompt[:-1]
        empty_engine.step([StepItem(4, 0, prompt, 0)])
        sequence = Device(reference, 4, length, len(prompt), [])
        decode_together(empty_engine, [sequence], 0.8, pick)
        assert tuple(sequence.output[:TOKENS]) == reference.output[:TOKENS]
        empty_engine.truncate(4, 0)
