"""Nothing that happens to a stream loses, repeats or changes a token."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import pytest

from sled_edge.config import DraftingMode
from sled_edge.drafter.fake import FakeDrafter
from sled_edge.fake_link import ToyTarget
from sled_edge.generation import GenerationRequest
from sled_edge.link_backoff import LinkTiming
from sled_protocol.v1 import verifier_pb2 as pb
from sled_speculation.sampling import AcceptanceMode, SamplingParams
from sled_testkit.edge import QUICK, collect, fixed, resilient, running_loop, settings, until
from sled_testkit.edge_faults import CuttingDialer, TamperingDialer
from sled_testkit.edge_frames import FakeVerifiers, Replica, refusal

PROMPT = (3, 1, 4, 1, 5, 9, 2, 6)
GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.8, seed=11, mode=AcceptanceMode.MATCH)
TOKENS = 12


def _drafter(target: ToyTarget) -> FakeDrafter:
    return FakeDrafter(target.logits, accuracy=0.7)


async def _boundaries(mode: DraftingMode, sampling: SamplingParams) -> int:
    target = ToyTarget()
    dialer = CuttingDialer(FakeVerifiers(target), ())
    async with running_loop(
        resilient(dialer), _drafter(target), settings(mode=mode), fixed(3)
    ) as loop:
        await collect(loop, GenerationRequest(PROMPT, TOKENS, sampling))
    return dialer.boundaries


@pytest.mark.parametrize(
    ("mode", "sampling"),
    [(DraftingMode.REJECTION, GREEDY), (DraftingMode.MATCH, SAMPLED)],
    ids=["greedy", "match"],
)
async def test_a_stream_cut_at_any_frame_boundary(
    mode: DraftingMode, sampling: SamplingParams
) -> None:
    target = ToyTarget()
    expected = target.text(PROMPT, TOKENS, sampling)
    boundaries = await _boundaries(mode, sampling)
    assert boundaries > 4 * TOKENS / 4
    for place in range(boundaries):
        dialer = CuttingDialer(FakeVerifiers(target, ("a", "b")), (place,))
        async with running_loop(
            resilient(dialer, ("a", "b")), _drafter(target), settings(mode=mode), fixed(3)
        ) as loop:
            text = await collect(loop, GenerationRequest(PROMPT, TOKENS, sampling))
        assert dialer.cut_streams == 1
        assert text.tokens == expected, f"cut at boundary {place}"


async def test_rejection_sampling_gives_the_same_text_for_the_same_drafts_wherever_it_is_cut() -> (
    None
):
    sampling = SamplingParams(temperature=0.9, seed=5)
    target = ToyTarget()
    texts = []
    for cuts in ((), (9,), (14, 22), (3, 11, 19, 27)):
        dialer = CuttingDialer(FakeVerifiers(target), cuts)
        async with running_loop(resilient(dialer), _drafter(target), lengths=fixed(4)) as loop:
            texts.append((await collect(loop, GenerationRequest(PROMPT, 30, sampling))).tokens)
        assert dialer.cut_streams == len(cuts)
    assert all(text == texts[0] for text in texts)


async def test_a_verifier_killed_in_the_middle_and_restarted() -> None:
    verifiers = FakeVerifiers()
    target = verifiers.target
    tokens: list[int] = []
    async with running_loop(resilient(verifiers), _drafter(target), lengths=fixed(3)) as loop:
        async for delta in loop.generate(GenerationRequest(PROMPT, 40, GREEDY)):
            before = len(tokens)
            tokens.extend(delta.tokens)
            if before // 10 != len(tokens) // 10:
                verifiers["a"].kill()
                asyncio.get_running_loop().call_later(0.02, verifiers["a"].restart)
    assert tokens == target.text(PROMPT, 40, GREEDY)
    assert len(verifiers["a"].hellos) >= 4


async def test_drain_moves_every_sequence_and_back() -> None:
    verifiers = FakeVerifiers(names=("a", "b"))
    target = verifiers.target
    requests = [GenerationRequest((n, 7, n), 60, GREEDY) for n in range(1, 5)]
    async with running_loop(
        resilient(verifiers, ("a", "b")), _drafter(target), lengths=fixed(2)
    ) as loop:
        work = asyncio.gather(*(collect(loop, request) for request in requests))
        for leaving, arriving in (("a", "b"), ("b", "a"), ("a", "b")):
            await until(partial(_is_used, verifiers[leaving]))
            verifiers[leaving].drain()
            await until(partial(_is_used, verifiers[arriving]))
            verifiers[leaving].restart()
            verifiers[leaving].drafts.clear()
        texts = await work
    for request, text in zip(requests, texts, strict=True):
        assert text.tokens == target.text(request.prompt_tokens, 60, GREEDY)


def _is_used(replica: Replica) -> bool:
    return bool(replica.streams) and len(replica.drafts) >= 6


async def test_a_drain_without_another_replica_waits_for_the_same_one_to_return() -> None:
    verifiers = FakeVerifiers()
    replica = verifiers["a"]
    tokens: list[int] = []
    async with running_loop(
        resilient(verifiers), _drafter(verifiers.target), lengths=fixed(2)
    ) as loop:
        async for delta in loop.generate(GenerationRequest(PROMPT, 30, GREEDY)):
            if not tokens:
                replica.drain()
                replica.hello_refusal = refusal(pb.REFUSAL_REASON_DRAINING)
                asyncio.get_running_loop().call_later(0.03, _come_back, replica)
            tokens.extend(delta.tokens)
    assert tokens == verifiers.target.text(PROMPT, 30, GREEDY)
    assert len(replica.hellos) > 2


def _come_back(replica: Replica) -> None:
    replica.hello_refusal = None
    replica.restart()


async def test_doubled_verdicts_are_ignored() -> None:
    verifiers = FakeVerifiers()

    def double(_number: int, frame: pb.ServerFrame) -> Sequence[pb.ServerFrame]:
        return (frame, frame) if frame.HasField("verdict") else (frame,)

    link = resilient(TamperingDialer(verifiers, double))
    async with running_loop(link, _drafter(verifiers.target), lengths=fixed(3)) as loop:
        text = await collect(loop, GenerationRequest(PROMPT, 40, GREEDY))
    assert text.tokens == verifiers.target.text(PROMPT, 40, GREEDY)


async def test_a_verdict_that_comes_again_during_the_next_round_is_ignored() -> None:
    verifiers = FakeVerifiers()
    earlier: list[pb.ServerFrame] = []

    def repeat(_number: int, frame: pb.ServerFrame) -> Sequence[pb.ServerFrame]:
        if not frame.HasField("verdict"):
            return (frame,)
        arrives = (*earlier[-1:], frame)
        earlier.append(frame)
        return arrives

    link = resilient(TamperingDialer(verifiers, repeat))
    async with running_loop(link, _drafter(verifiers.target), lengths=fixed(3)) as loop:
        text = await collect(loop, GenerationRequest(PROMPT, 40, GREEDY))
    assert text.tokens == verifiers.target.text(PROMPT, 40, GREEDY)
    assert len(earlier) == len(verifiers["a"].drafts)


@pytest.mark.parametrize("lost", [2, 4, 7])
async def test_a_lost_verdict_is_asked_for_again(lost: int) -> None:
    verifiers = FakeVerifiers()
    quick = LinkTiming(
        round_seconds=0.02,
        prefill_seconds_per_token=0.0,
        grace_seconds=0.02,
        backoff_base_seconds=0.001,
        backoff_cap_seconds=0.01,
        stable_seconds=0.0,
        max_reopens=1000,
    )

    def lose(number: int, frame: pb.ServerFrame) -> Sequence[pb.ServerFrame]:
        return () if number == lost else (frame,)

    link = resilient(TamperingDialer(verifiers, lose), timing=quick)
    async with running_loop(link, _drafter(verifiers.target), lengths=fixed(3)) as loop:
        text = await collect(loop, GenerationRequest(PROMPT, 30, GREEDY))
    assert text.tokens == verifiers.target.text(PROMPT, 30, GREEDY)


async def test_sixteen_generations_at_once_over_cut_streams() -> None:
    verifiers = FakeVerifiers(names=("a", "b"))
    target = verifiers.target
    dialer = CuttingDialer(verifiers, range(60, 5000, 271))
    requests = [GenerationRequest((n, 2 * n % 64, 5), 40, GREEDY) for n in range(1, 17)]
    async with running_loop(
        resilient(dialer, ("a", "b")), _drafter(target), settings(sequences=16), fixed(3)
    ) as loop:
        texts = await asyncio.gather(*(collect(loop, request) for request in requests))
    assert dialer.cut_streams > 5
    for request, text in zip(requests, texts, strict=True):
        assert text.tokens == target.text(request.prompt_tokens, 40, GREEDY)


def test_quick_timing_is_bounded_like_the_real_one() -> None:
    assert LinkTiming().max_reopens == QUICK.max_reopens
