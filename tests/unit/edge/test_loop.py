from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from sled_edge.config import DraftingMode, OfflinePolicy
from sled_edge.drafter.base import Drafter, KeepDrafting, Proposal
from sled_edge.drafter.fake import FakeDrafter
from sled_edge.drafter.ngram import NgramDrafter
from sled_edge.fake_link import FakeLink, ToyTarget
from sled_edge.generation import FinishReason, GenerationError, GenerationRequest
from sled_edge.link import SequenceRefused
from sled_speculation.sampling import AcceptanceMode, Guide, SamplingParams
from sled_testkit.edge import collect, fixed, running_loop, settings, until

PROMPT = (3, 1, 4, 1, 5, 9, 2, 6)
GREEDY = SamplingParams()


@pytest.mark.parametrize("draft_tokens", range(17))
@pytest.mark.parametrize("kind", ["right", "mostly", "wrong", "ngram"])
async def test_greedy_text_is_the_targets_own(draft_tokens: int, kind: str) -> None:
    target = ToyTarget(order=1)
    accuracy = {"right": 1.0, "mostly": 0.7, "wrong": 0.0}
    drafter: Drafter = NgramDrafter()
    if kind != "ngram":
        drafter = FakeDrafter(target.logits, accuracy=accuracy[kind])
    async with running_loop(FakeLink(target), drafter, lengths=fixed(draft_tokens)) as loop:
        text = await collect(loop, GenerationRequest(PROMPT, 60, GREEDY))
    assert text.tokens == target.text(PROMPT, 60, GREEDY)
    assert text.finish is FinishReason.LENGTH


async def test_match_mode_text_is_the_targets_own_sample() -> None:
    target = ToyTarget()
    sampling = SamplingParams(temperature=0.9, seed=17, mode=AcceptanceMode.MATCH)
    expected = target.text(PROMPT, 50, sampling)
    for accuracy in (1.0, 0.6, 0.0):
        drafter = FakeDrafter(target.logits, accuracy=accuracy)
        async with running_loop(
            FakeLink(target), drafter, settings(mode=DraftingMode.MATCH)
        ) as loop:
            # The mode is the device's to choose, whatever the request says.
            plain = SamplingParams(temperature=0.9, seed=17)
            text = await collect(loop, GenerationRequest(PROMPT, 50, plain))
        assert text.tokens == expected


@pytest.mark.parametrize(
    ("mode", "temperature", "sends"),
    [
        (DraftingMode.REJECTION, 0.9, True),
        (DraftingMode.REJECTION, 0.0, False),
        (DraftingMode.MATCH, 0.9, False),
        (DraftingMode.POINT_MASS, 0.9, False),
    ],
)
async def test_distributions_are_sent_only_where_they_are_judged(
    mode: DraftingMode, temperature: float, sends: bool
) -> None:
    target = ToyTarget()
    link = FakeLink(target)
    drafter = FakeDrafter(target.logits, accuracy=0.9)
    sampling = SamplingParams(temperature=temperature, seed=2)
    async with running_loop(link, drafter, settings(mode=mode), fixed(4)) as loop:
        await collect(loop, GenerationRequest(PROMPT, 30, sampling))
    drafts = [draft for draft in link.rounds if draft.tokens]
    assert drafts
    for draft in drafts:
        assert len(draft.distributions) == (len(draft.tokens) if sends else 0)


async def test_point_masses_are_the_drafters_best_guess() -> None:
    target = ToyTarget()
    link = FakeLink(target)
    sampling = SamplingParams(temperature=0.9, seed=2)
    async with running_loop(
        link, FakeDrafter(target.logits, accuracy=1.0), settings(mode=DraftingMode.POINT_MASS)
    ) as loop:
        text = await collect(loop, GenerationRequest(PROMPT, 5, sampling))
    prefix = [*PROMPT, *text.tokens[:1]]
    assert link.rounds[0].tokens == ()
    assert link.rounds[1].tokens
    for token in link.rounds[1].tokens:
        assert token == target.next_token(prefix)
        prefix.append(token)


async def test_max_tokens_is_exact_and_no_round_drafts_beyond_it() -> None:
    target = ToyTarget()
    for max_tokens in (0, 1, 2, 5, 9):
        link = FakeLink(target)
        drafter = FakeDrafter(target.logits, accuracy=1.0)
        async with running_loop(link, drafter, lengths=fixed(4)) as loop:
            text = await collect(loop, GenerationRequest(PROMPT, max_tokens, GREEDY))
        assert text.tokens == target.text(PROMPT, max_tokens, GREEDY)
        assert text.finish is FinishReason.LENGTH
        for draft in link.rounds:
            assert len(draft.tokens) < max_tokens - draft.committed_length


async def test_the_verifiers_hint_bounds_the_draft() -> None:
    target = ToyTarget()
    link = FakeLink(target, hint=2, max_draft_tokens=5)
    for hint, lengths in ((16, {0, 5}), (2, {0, 2}), (0, {0})):
        link.hint = hint
        link.rounds.clear()
        drafter = FakeDrafter(target.logits, accuracy=1.0)
        async with running_loop(link, drafter, lengths=fixed(8)) as loop:
            await collect(loop, GenerationRequest(PROMPT, 61, GREEDY))
        assert {len(draft.tokens) for draft in link.rounds} == lengths


async def test_closing_frees_link_and_drafter_at_once() -> None:
    target = ToyTarget()
    link, drafter = FakeLink(target), FakeDrafter(target.logits)
    async with running_loop(link, drafter) as loop:
        text = loop.generate(GenerationRequest(PROMPT, 500, GREEDY))
        await anext(text)
        assert link.open_sequences == {1}
        await text.aclose()
        assert link.open_sequences == set()
        await collect(loop, GenerationRequest(PROMPT, 1, GREEDY))
    assert drafter.known_sequences == set()
    assert drafter.closed
    assert link.closed


async def test_a_cancelled_reader_frees_everything_too() -> None:
    link = FakeLink(hold=asyncio.Event())
    async with running_loop(link, NgramDrafter(), settings(sequences=1)) as loop:
        task = asyncio.create_task(collect(loop, GenerationRequest(PROMPT, 50, GREEDY)))
        await until(lambda: bool(link.rounds))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert link.open_sequences == set()
        link.hold = None
        assert len((await collect(loop, GenerationRequest(PROMPT, 5, GREEDY))).tokens) == 5


async def test_at_most_so_many_generations_run_and_wait() -> None:
    link = FakeLink(hold=asyncio.Event())
    limited = settings(sequences=2, max_waiting=3)
    requests = [GenerationRequest((n, 1), 4, GREEDY) for n in range(1, 6)]
    async with running_loop(link, NgramDrafter(), limited) as loop:
        tasks = [asyncio.create_task(collect(loop, request)) for request in requests]
        await until(lambda: len(link.rounds) >= 2)
        with pytest.raises(GenerationError) as error:
            await collect(loop, requests[0])
        assert error.value.reason == "too_many_sequences"
        assert error.value.retry_after_seconds > 0
        assert len(link.open_sequences) == 2
        if link.hold is not None:
            link.hold.set()
        texts = await asyncio.gather(*tasks)
    for request, text in zip(requests, texts, strict=True):
        assert text.tokens == link.target.text(request.prompt_tokens, 4, GREEDY)


async def test_sixteen_at_once_do_not_mix() -> None:
    link = FakeLink()
    requests = [GenerationRequest((n, 2, n), 30, GREEDY) for n in range(1, 17)]
    drafter = FakeDrafter(link.target.logits, accuracy=0.7)
    async with running_loop(link, drafter, settings(sequences=16, draft_ahead=True)) as loop:
        texts = await asyncio.gather(*(collect(loop, request) for request in requests))
    for request, text in zip(requests, texts, strict=True):
        assert text.tokens == link.target.text(request.prompt_tokens, 30, GREEDY)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (GenerationRequest((), 5), "malformed"),
        (GenerationRequest(PROMPT, -1), "malformed"),
        (GenerationRequest((1, 64), 5), "malformed"),
        (GenerationRequest((-1,), 5), "malformed"),
        (GenerationRequest((1,) * 4096, 5), "prompt_too_long"),
    ],
)
async def test_what_no_verifier_would_take_is_refused_here(
    request_: GenerationRequest, reason: str
) -> None:
    link = FakeLink()
    async with running_loop(link, NgramDrafter()) as loop:
        with pytest.raises(GenerationError) as error:
            await collect(loop, request_)
        assert error.value.reason == reason
        assert not link.rounds


async def test_a_refusal_in_the_middle_is_typed() -> None:
    link = FakeLink()
    async with running_loop(link, NgramDrafter()) as loop:
        text = loop.generate(GenerationRequest(PROMPT, 50, GREEDY))
        await anext(text)
        link.refusals = [SequenceRefused("invalid_sampling", "no", 3.0)]
        with pytest.raises(GenerationError) as error:
            await anext(text)
        assert (error.value.reason, error.value.retry_after_seconds) == ("invalid_sampling", 3.0)
        assert link.open_sequences == set()


class _Broken(NgramDrafter):
    def propose(
        self,
        sequence: int,
        prefix: Sequence[int],
        max_tokens: int,
        sampling: SamplingParams,
        keep_drafting: KeepDrafting,
    ) -> Proposal:
        raise MemoryError("out of memory")


async def test_a_drafter_that_fails_costs_speed_only(caplog: pytest.LogCaptureFixture) -> None:
    link = FakeLink()
    async with running_loop(link, _Broken()) as loop:
        text = await collect(loop, GenerationRequest(PROMPT, 12, GREEDY))
    assert text.tokens == link.target.text(PROMPT, 12, GREEDY)
    # It is not asked for ever.
    assert sum("without draft" in message for message in caplog.messages) == 3


async def test_drafting_never_blocks_the_event_loop() -> None:
    entered, leave = threading.Event(), threading.Event()

    class Slow(NgramDrafter):
        def propose(
            self,
            sequence: int,
            prefix: Sequence[int],
            max_tokens: int,
            sampling: SamplingParams,
            keep_drafting: KeepDrafting,
        ) -> Proposal:
            entered.set()
            leave.wait(30)
            return Proposal(())

    async with running_loop(FakeLink(), Slow()) as loop:
        task = asyncio.create_task(collect(loop, GenerationRequest(PROMPT, 1, GREEDY)))
        task2 = asyncio.create_task(collect(loop, GenerationRequest(PROMPT, 2, GREEDY)))
        await asyncio.to_thread(entered.wait)
        # The event loop runs although the drafter does not return.
        assert loop.ready()
        leave.set()
        assert len((await task).tokens) == 1
        assert len((await task2).tokens) == 2


async def test_refusing_new_ones_lets_running_ones_finish() -> None:
    link = FakeLink()
    async with running_loop(link, NgramDrafter()) as loop:
        text = loop.generate(GenerationRequest(PROMPT, 30, GREEDY))
        tokens = list((await anext(text)).tokens)
        loop.refuse_new()
        assert not loop.ready()
        with pytest.raises(GenerationError) as error:
            await collect(loop, GenerationRequest(PROMPT, 1, GREEDY))
        assert error.value.reason == "draining"
        async for delta in text:
            tokens.extend(delta.tokens)
    assert tokens == link.target.text(PROMPT, 30, GREEDY)


async def test_breaking_off_ends_running_ones_typed_and_frees_them() -> None:
    link = FakeLink(hold=asyncio.Event())
    async with running_loop(link, NgramDrafter(), settings(sequences=2)) as loop:
        tasks = [
            asyncio.create_task(collect(loop, GenerationRequest((n, 1), 30, GREEDY)))
            for n in range(1, 5)
        ]
        await until(lambda: len(link.rounds) >= 2)
        loop.break_off()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [getattr(result, "reason", None) for result in results] == ["draining"] * 4
        assert link.open_sequences == set()


async def test_refuse_says_unavailable_and_serves_again_when_the_verifier_is_back() -> None:
    link = FakeLink(outage=True)
    async with running_loop(link, FakeDrafter(link.target.logits)) as loop:
        assert not loop.ready()
        with pytest.raises(GenerationError) as error:
            await collect(loop, GenerationRequest(PROMPT, 5, GREEDY))
        assert error.value.reason == "unavailable"
        assert error.value.retry_after_seconds > 0
        link.outage = False
        assert loop.ready()
        assert len((await collect(loop, GenerationRequest(PROMPT, 5, GREEDY))).tokens) == 5


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_draft_only_marks_what_the_target_did_not_see(temperature: float) -> None:
    link = FakeLink()
    sampling = SamplingParams(temperature=temperature, seed=8)
    alone = settings(policy=OfflinePolicy.DRAFT_ONLY)
    drafter = FakeDrafter(link.target.logits, accuracy=0.5)
    tokens: list[int] = []
    marks: list[bool] = []
    async with running_loop(link, drafter, alone, fixed(3)) as loop:
        async for delta in loop.generate(GenerationRequest(PROMPT, 60, sampling)):
            tokens.extend(delta.tokens)
            marks.extend([delta.verified] * len(delta.tokens))
            assert (delta.round is None) is not delta.verified
            if len(tokens) >= 20:
                link.outage = len(tokens) < 40
                link._connections += not link.outage
        assert len(tokens) == 60
        first, last = marks.index(False), 59 - marks[::-1].index(False)
        assert 20 <= first < last < 59
        assert not any(marks[first : last + 1])
        link.outage = True
        assert loop.ready()
        fresh = await collect(loop, GenerationRequest(PROMPT, 8, sampling))
        assert fresh.verified == [False] * 8
    if temperature == 0:
        assert tokens[:first] == link.target.text(PROMPT, first, sampling)
        rest = link.target.text([*PROMPT, *tokens[: last + 1]], 59 - last, sampling)
        assert tokens[last + 1 :] == rest


async def test_draft_only_honours_end_tokens_and_length() -> None:
    target = ToyTarget(vocab_size=8, end_token=3, order=3)
    link = FakeLink(target, outage=True)
    drafter = FakeDrafter(target.logits, accuracy=1.0)
    alone = settings(policy=OfflinePolicy.DRAFT_ONLY, end_tokens=(3,), context_tokens=300)
    whole = target.text(PROMPT[:1], 200, GREEDY)
    async with running_loop(link, drafter, alone) as loop:
        text = await collect(loop, GenerationRequest(PROMPT[:1], 200, GREEDY))
        cut = await collect(loop, GenerationRequest(PROMPT[:1], 5, GREEDY, ignore_end_tokens=True))
        full = await collect(
            loop, GenerationRequest(PROMPT[:1], 999, GREEDY, ignore_end_tokens=True)
        )
    assert text.tokens == whole[: whole.index(3)]
    assert text.finish is FinishReason.END_TOKEN
    assert cut.tokens == whole[:5]
    assert cut.finish is FinishReason.LENGTH
    assert len(full.tokens) == 299
    assert full.finish is FinishReason.CONTEXT_FULL


async def test_draft_only_without_a_drafter_that_writes_refuses() -> None:
    link = FakeLink(outage=True)
    async with running_loop(
        link, NgramDrafter(), settings(policy=OfflinePolicy.DRAFT_ONLY)
    ) as loop:
        assert not loop.ready()
        with pytest.raises(GenerationError, match="no verifier"):
            await collect(loop, GenerationRequest(PROMPT, 5, GREEDY))


async def test_what_is_shown_before_and_after_the_first_handshake() -> None:
    link = FakeLink(outage=True)
    unknown = settings(model_name="configured", context_tokens=100)
    async with running_loop(link, NgramDrafter(), unknown) as loop:
        assert (loop.model_name(), loop.context_tokens()) == ("configured", 100)
        link.outage = False
        assert (loop.model_name(), loop.context_tokens()) == ("toy", 4096)
        link.outage = True
        assert (loop.model_name(), loop.context_tokens()) == ("toy", 4096)


async def test_the_draft_model_writes_no_guided_text_alone() -> None:
    target = ToyTarget()
    link = FakeLink(target, guides=True)
    alone = settings(policy=OfflinePolicy.DRAFT_ONLY)
    guided = GenerationRequest(PROMPT, 20, SamplingParams(guide=Guide()))
    async with running_loop(link, FakeDrafter(target.logits), alone, fixed(3)) as loop:
        assert (await collect(loop, guided)).verified == [True] * 20
        link.outage = True
        with pytest.raises(GenerationError) as caught:
            await collect(loop, guided)
        assert caught.value.reason == "unavailable"
        assert not any((await collect(loop, GenerationRequest(PROMPT, 4, GREEDY))).verified)
