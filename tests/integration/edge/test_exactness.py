"""Over the real wire and the real verifier, every text is the target's own, token for token."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from sled_edge.config import DraftingMode
from sled_edge.drafter.base import Drafter
from sled_edge.drafter.fake import FakeDrafter, sure_logits
from sled_edge.drafter.ngram import NgramDrafter
from sled_edge.fake_link import target_text
from sled_edge.generation import FinishReason, GenerationRequest
from sled_speculation.sampling import AcceptanceMode, SamplingParams
from sled_testkit.edge import collect, fixed, running_loop, settings
from sled_testkit.edge_faults import CuttingDialer, cutting
from sled_testkit.edge_wire import until_no_sequences, wire_link
from sled_testkit.verifier import running_verifier
from sled_verifier.engine.fake import FakeEngine, ToyModel

PROMPT = (72, 101, 108, 108, 111)
GREEDY = SamplingParams()
MODEL = ToyModel()

DRAFTERS: dict[str, Callable[[], Drafter]] = {
    "right": lambda: FakeDrafter(MODEL.logits, accuracy=1.0),
    "mostly": lambda: FakeDrafter(MODEL.logits, accuracy=0.7),
    "wrong": lambda: FakeDrafter(MODEL.logits, accuracy=0.0),
    "ngram": NgramDrafter,
}


@pytest.mark.parametrize("kind", DRAFTERS)
async def test_greedy_for_every_drafter_and_draft_length(kind: str) -> None:
    expected = MODEL.greedy(PROMPT, 50)
    async with running_verifier() as address:
        for draft_tokens in range(1, 17):
            async with running_loop(
                wire_link([address]), DRAFTERS[kind](), lengths=fixed(draft_tokens)
            ) as loop:
                text = await collect(loop, GenerationRequest(PROMPT, 50, GREEDY))
            assert text.tokens == expected
            assert text.finish is FinishReason.LENGTH


async def test_greedy_with_the_drafters_own_choice_of_length_and_work_ahead() -> None:
    expected = MODEL.greedy(PROMPT, 200)
    async with (
        running_verifier() as address,
        running_loop(
            wire_link([address]), DRAFTERS["mostly"](), settings(draft_ahead=True)
        ) as loop,
    ):
        for _ in range(3):
            assert (await collect(loop, GenerationRequest(PROMPT, 200, GREEDY))).tokens == expected


async def test_a_repetitive_text_is_drafted_by_lookup() -> None:
    model = ToyModel(order=1)
    engine = FakeEngine(model=model)
    async with (
        running_verifier(engine=engine) as address,
        running_loop(wire_link([address]), NgramDrafter(), lengths=fixed(8)) as loop,
    ):
        text = await collect(loop, GenerationRequest(PROMPT, 300, GREEDY))
    assert text.tokens == model.greedy(PROMPT, 300)
    accepted = sum(delta.round.accepted_tokens for delta in text.deltas if delta.round)
    assert accepted > 150


async def test_an_end_token_ends_the_text_and_is_left_out() -> None:
    model = ToyModel(end_every=40)
    engine = FakeEngine(model=model)
    alone = model.greedy(PROMPT, 500)
    end = alone.index(model.end_token)
    async with (
        running_verifier(engine=engine) as address,
        running_loop(
            wire_link([address]), FakeDrafter(model.logits, accuracy=0.9), lengths=fixed(5)
        ) as loop,
    ):
        text = await collect(loop, GenerationRequest(PROMPT, 500, GREEDY))
        beyond = await collect(
            loop, GenerationRequest(PROMPT, end + 20, GREEDY, ignore_end_tokens=True)
        )
        await until_no_sequences(address)
    assert text.tokens == alone[:end]
    assert text.finish is FinishReason.END_TOKEN
    assert beyond.tokens == alone[: end + 20]


async def test_the_context_is_filled_to_the_last_token() -> None:
    engine = FakeEngine(context_tokens=64)
    async with (
        running_verifier(engine=engine) as address,
        running_loop(wire_link([address]), DRAFTERS["mostly"](), lengths=fixed(7)) as loop,
    ):
        await collect(loop, GenerationRequest(PROMPT, 1, GREEDY))
        text = await collect(loop, GenerationRequest(PROMPT, 500, GREEDY))
    assert text.tokens == MODEL.greedy(PROMPT, 64 - len(PROMPT))
    assert text.finish is FinishReason.CONTEXT_FULL


@pytest.mark.parametrize(
    ("mode", "sampling"),
    [
        (DraftingMode.REJECTION, GREEDY),
        (DraftingMode.MATCH, SamplingParams(temperature=0.8, seed=11, mode=AcceptanceMode.MATCH)),
    ],
    ids=["greedy", "match"],
)
async def test_a_stream_cut_at_any_frame_boundary(
    mode: DraftingMode, sampling: SamplingParams
) -> None:
    expected = target_text(MODEL.logits, PROMPT, 10, sampling)
    dialers: list[CuttingDialer] = []

    async with running_verifier() as first, running_verifier() as second:

        async def run(*cuts: int) -> list[int]:
            link = wire_link([first, second], wrap=cutting(dialers, *cuts))
            drafter = DRAFTERS["mostly"]()
            async with running_loop(link, drafter, settings(mode=mode), fixed(3)) as loop:
                return (await collect(loop, GenerationRequest(PROMPT, 10, sampling))).tokens

        assert await run() == expected
        for place in range(dialers[0].boundaries):
            assert await run(place) == expected, f"cut at boundary {place}"
            assert dialers[-1].cut_streams == 1
        for address in (first, second):
            await until_no_sequences(address)


@pytest.mark.parametrize("kind", DRAFTERS)
async def test_match_mode_does_not_depend_on_the_drafter(kind: str) -> None:
    sampling = SamplingParams(temperature=1.0, top_p=0.95, seed=3, mode=AcceptanceMode.MATCH)
    async with (
        running_verifier() as address,
        running_loop(
            wire_link([address]), DRAFTERS[kind](), settings(mode=DraftingMode.MATCH), fixed(4)
        ) as loop,
    ):
        text = await collect(loop, GenerationRequest(PROMPT, 60, sampling))
    assert text.tokens == target_text(MODEL.logits, PROMPT, 60, sampling)


async def test_rejection_mode_sends_the_distributions_it_drew_from() -> None:
    sampling = SamplingParams(temperature=1.0, seed=4)
    texts = []
    async with running_verifier() as address:
        for _ in range(2):
            drafter = FakeDrafter(MODEL.logits, accuracy=0.9, max_probs=64)
            async with running_loop(wire_link([address]), drafter, lengths=fixed(4)) as loop:
                texts.append(await collect(loop, GenerationRequest(PROMPT, 80, sampling)))
    assert texts[0].tokens == texts[1].tokens
    rounds = [delta.round for delta in texts[0].deltas if delta.round is not None]
    assert sum(r.accepted_tokens for r in rounds) > 0.5 * sum(r.draft_tokens for r in rounds)
    greedy_bytes = 64
    assert max(r.uplink_bytes for r in rounds) > greedy_bytes


async def test_sixteen_generations_at_once() -> None:
    requests = [GenerationRequest((n, n * 7 % 256, 5), 40, GREEDY) for n in range(1, 17)]
    async with (
        running_verifier(batching={"maxSequencesPerDevice": 16}) as address,
        running_loop(
            wire_link([address]), DRAFTERS["mostly"](), settings(sequences=16), fixed(4)
        ) as loop,
    ):
        texts = await asyncio.gather(*(collect(loop, request) for request in requests))
        stats = await until_no_sequences(address)
    assert stats.rounds_total >= 16
    for request, text in zip(requests, texts, strict=True):
        assert text.tokens == MODEL.greedy(request.prompt_tokens, 40)


async def test_more_generations_than_the_verifier_allows_take_turns() -> None:
    requests = [GenerationRequest((n, 9), 12, GREEDY) for n in range(1, 9)]
    async with (
        running_verifier(batching={"maxSequencesPerDevice": 2}) as address,
        running_loop(
            wire_link([address]), DRAFTERS["mostly"](), settings(sequences=8), fixed(4)
        ) as loop,
    ):
        # The limit is known from the first handshake on.
        await collect(loop, requests[0])
        texts = await asyncio.gather(*(collect(loop, request) for request in requests))
        stats = await until_no_sequences(address)
    assert stats.refusals_total == 0
    for request, text in zip(requests, texts, strict=True):
        assert text.tokens == MODEL.greedy(request.prompt_tokens, 12)


async def test_a_target_whose_logits_are_sure_is_drafted_whole() -> None:
    drafter = FakeDrafter(
        sure_logits(lambda prefix: MODEL.greedy(prefix, 1)[0], MODEL.vocab_size), accuracy=1.0
    )
    async with (
        running_verifier() as address,
        running_loop(wire_link([address]), drafter, lengths=fixed(16)) as loop,
    ):
        text = await collect(loop, GenerationRequest(PROMPT, 86, GREEDY))
    assert text.tokens == MODEL.greedy(PROMPT, 86)
    # 17 tokens a round.
    assert len(text.deltas) == 6
