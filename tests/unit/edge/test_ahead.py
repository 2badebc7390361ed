"""Drafting ahead may save time and never changes a token."""

from __future__ import annotations

import pytest

from sled_edge.ahead import AheadRecord
from sled_edge.config import DraftingMode
from sled_edge.drafter.fake import FakeDrafter
from sled_edge.fake_link import FakeLink, ToyTarget
from sled_edge.generation import GenerationRequest
from sled_speculation.sampling import SamplingParams
from sled_testkit.edge import collect, fixed, running_loop, settings

PROMPT = (3, 1, 4, 1, 5, 9, 2, 6)


@pytest.mark.parametrize("accuracy", [1.0, 0.9, 0.5, 0.0])
@pytest.mark.parametrize("draft_tokens", [1, 3, 8])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("mode", list(DraftingMode))
async def test_the_same_rounds_as_without(
    accuracy: float, draft_tokens: int, temperature: float, mode: DraftingMode
) -> None:
    target = ToyTarget()
    request = GenerationRequest(PROMPT, 40, SamplingParams(temperature=temperature, seed=7))
    rounds = []
    texts = []
    for ahead in (False, True):
        drafter = FakeDrafter(target.logits, accuracy=accuracy)
        link = FakeLink(target)
        async with running_loop(
            link, drafter, settings(mode=mode, draft_ahead=ahead), fixed(draft_tokens)
        ) as loop:
            texts.append((await collect(loop, request)).tokens)
        rounds.append([(r.tokens, r.distributions, r.prefix_hash) for r in link.rounds])
    assert texts[0] == texts[1]
    assert rounds[0] == rounds[1]


class _Watched(FakeDrafter):
    """Counts the proposals that were asked for before the verdict they depend on was given."""

    def __init__(self, target: ToyTarget) -> None:
        super().__init__(target.logits, accuracy=1.0)
        self.proposals: list[tuple[int, int]] = []

    def propose(self, sequence, prefix, max_tokens, sampling, keep_drafting):  # type: ignore[no-untyped-def]
        self.proposals.append((len(prefix), max_tokens))
        return super().propose(sequence, prefix, max_tokens, sampling, keep_drafting)


async def test_work_ahead_replaces_the_work_after() -> None:
    target = ToyTarget()
    drafter = _Watched(target)
    link = FakeLink(target)
    async with running_loop(link, drafter, settings(draft_ahead=True), fixed(3)) as loop:
        text = await collect(loop, GenerationRequest(PROMPT, 41, SamplingParams()))
    assert text.tokens == target.text(PROMPT, 41, SamplingParams())
    starts = [(length, wanted) for length, wanted in drafter.proposals if wanted > 1]
    # One draft per round, each made once: none was made again after the verdict.
    assert len(starts) == len(set(starts)) == len(link.rounds) - 1
    assert [len(r.tokens) for r in link.rounds] == [0] + [3] * 10


async def test_closing_a_generation_abandons_its_work_ahead() -> None:
    target = ToyTarget()
    drafter = FakeDrafter(target.logits, accuracy=1.0)
    async with running_loop(FakeLink(target), drafter, settings(draft_ahead=True)) as loop:
        text = loop.generate(GenerationRequest(PROMPT, 400, SamplingParams()))
        await anext(text)
        await text.aclose()
    assert drafter.known_sequences == set()


def test_work_that_is_never_of_use_is_given_up_and_tried_again() -> None:
    record = AheadRecord()
    worth = []
    for _ in range(100):
        worth.append(record.worth())
        if worth[-1]:
            record.observe(False)
    assert all(worth[:10])
    assert 1 <= sum(worth[50:]) <= 5


def test_work_that_is_of_use_goes_on() -> None:
    record = AheadRecord()
    for number in range(100):
        assert record.worth()
        record.observe(number % 3 == 0)
