"""The verifier goes on by itself where drafts do not pay: same text, few questions, nothing lost when it breaks off."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from sled_edge.drafter.fake import FakeDrafter
from sled_edge.fake_link import ToyTarget
from sled_edge.generation import GenerationError, GenerationRequest
from sled_edge.link_frames import DeviceFacts
from sled_edge.link_runs import Runs, RunTooLong
from sled_edge.link_stream import handshake
from sled_protocol.limits import MAX_RUN_TOKENS
from sled_protocol.v1 import verifier_pb2 as pb
from sled_speculation.draft_length_policy import RUN_TOKENS
from sled_speculation.sampling import SamplingParams
from sled_testkit.edge import (
    IMPATIENT,
    QUICK,
    collect,
    fixed,
    resilient,
    running_loop,
    settings,
    until,
)
from sled_testkit.edge_faults import CuttingDialer
from sled_testkit.edge_frames import FakeVerifiers, Replica

PROMPT = (3, 1, 4, 1, 5, 9, 2, 6)
GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.8, seed=11)
TOKENS = 40


def busy(target: ToyTarget, names: tuple[str, ...] = ("a",)) -> FakeVerifiers:
    """Verifiers at which drafts do not pay."""
    verifiers = FakeVerifiers(target, names)
    for name in names:
        verifiers[name].hint = 0
    return verifiers


def drafter(target: ToyTarget) -> FakeDrafter:
    return FakeDrafter(target.logits, accuracy=0.7)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
async def test_tokens_come_unasked_where_drafts_do_not_pay(sampling: SamplingParams) -> None:
    target = ToyTarget()
    verifiers = busy(target)
    async with running_loop(resilient(verifiers), drafter(target), lengths=fixed(4)) as loop:
        text = await collect(loop, GenerationRequest(PROMPT, TOKENS, sampling))
    replica = verifiers["a"]
    assert text.tokens == target.text(PROMPT, TOKENS, sampling)
    assert len(replica.drafts) == -(-TOKENS // RUN_TOKENS)
    assert replica.unasked == TOKENS - len(replica.drafts)
    assert [delta.round.uplink_bytes > 0 for delta in text.deltas if delta.round].count(True) == 3


async def test_nothing_beyond_the_end_is_asked_for() -> None:
    target = ToyTarget()
    verifiers = busy(target)
    async with running_loop(resilient(verifiers), drafter(target), lengths=fixed(4)) as loop:
        await collect(loop, GenerationRequest(PROMPT, 5, GREEDY))
        await until(lambda: verifiers["a"].open_sequences == 0)
    assert [draft.run_tokens for draft in verifiers["a"].drafts] == [5]


async def test_drafts_are_sent_again_as_soon_as_they_pay() -> None:
    target = ToyTarget()
    verifiers = busy(target)
    replica = verifiers["a"]
    async with running_loop(resilient(verifiers), drafter(target), lengths=fixed(4)) as loop:
        async for delta in loop.generate(GenerationRequest(PROMPT, TOKENS, GREEDY)):
            if delta.tokens and len(replica.drafts) == 1:
                replica.hint = 4
    # The second question still goes without, as the last verdict of the run has said.
    assert [len(draft.draft_tokens) > 0 for draft in replica.drafts[:3]] == [False, False, True]


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
async def test_a_stream_cut_at_any_frame_boundary_of_a_run(sampling: SamplingParams) -> None:
    target = ToyTarget()
    expected = target.text(PROMPT, TOKENS, sampling)

    async def write(cuts: tuple[int, ...]) -> tuple[list[int], int]:
        dialer = CuttingDialer(busy(target, ("a", "b")), cuts)
        link = resilient(dialer, ("a", "b"))
        async with running_loop(link, drafter(target), lengths=fixed(3)) as loop:
            text = await collect(loop, GenerationRequest(PROMPT, TOKENS, sampling))
        return text.tokens, dialer.boundaries

    _, boundaries = await write(())
    assert boundaries > TOKENS
    for place in range(boundaries):
        assert (await write((place,)))[0] == expected, f"cut at boundary {place}"


async def test_a_killed_or_draining_verifier_ends_the_run_and_another_one_takes_over() -> None:
    target = ToyTarget()
    for trouble in (Replica.kill, Replica.drain):
        verifiers = busy(target, ("a", "b"))
        text: list[int] = []
        async with running_loop(
            resilient(verifiers, ("a", "b")), drafter(target), lengths=fixed(4)
        ) as loop:
            async for delta in loop.generate(GenerationRequest(PROMPT, TOKENS, GREEDY)):
                text += delta.tokens
                if len(text) == 3:
                    trouble(verifiers["a"])
        assert text == target.text(PROMPT, TOKENS, GREEDY)
        assert verifiers["b"].opens


async def test_a_verdict_that_was_announced_and_does_not_come_is_asked_for() -> None:
    target = ToyTarget()
    verifiers = busy(target)
    verifiers["a"].breaks_word = True
    timing = replace(QUICK, round_seconds=0.02, grace_seconds=0.01, prefill_seconds_per_token=0.0)
    link = resilient(verifiers, timing=timing)
    async with running_loop(link, drafter(target), lengths=fixed(4)) as loop:
        text = await collect(loop, GenerationRequest(PROMPT, 4, GREEDY))
    assert text.tokens == target.text(PROMPT, 4, GREEDY)


async def test_a_reader_who_leaves_in_a_run_frees_the_sequence() -> None:
    target = ToyTarget()
    verifiers = busy(target)
    async with running_loop(resilient(verifiers), drafter(target), lengths=fixed(4)) as loop:
        text = loop.generate(GenerationRequest(PROMPT, TOKENS, GREEDY))
        await anext(text)
        await text.aclose()
        await until(lambda: verifiers["a"].open_sequences == 0)
        again = await collect(loop, GenerationRequest(PROMPT, TOKENS, GREEDY))
    assert again.tokens == target.text(PROMPT, TOKENS, GREEDY)


async def test_a_slow_device_lets_the_verifier_go_on_whatever_it_hints() -> None:
    class Declining:
        plain_tokens = 16

        def limit(self, load_hint: int | None = None, remaining_tokens: int | None = None) -> int:
            return 0

        def keep_drafting(self, confidences: object) -> bool:
            return False

        def observe(self, *_: object) -> None:
            pass

        def observe_run(self, seconds: float) -> None:
            pass

    target = ToyTarget()
    verifiers = FakeVerifiers(target)
    async with running_loop(resilient(verifiers), drafter(target), lengths=Declining) as loop:
        text = await collect(loop, GenerationRequest(PROMPT, TOKENS, GREEDY))
    assert text.tokens == target.text(PROMPT, TOKENS, GREEDY)
    assert all(draft.run_on for draft in verifiers["a"].drafts)
    assert len(verifiers["a"].drafts) == 3


def verdict(length: int, *, goes_on: bool = True) -> pb.Verdict:
    return pb.Verdict(sequence=1, committed_length=length, next_token=length, goes_on=goes_on)


def test_answers_are_kept_in_order_until_they_are_asked_for() -> None:
    runs = Runs()
    assert not runs.keep(verdict(0), 1)
    runs.begin(verdict(0))
    assert runs.under_way
    assert runs.keep(verdict(1), 10)
    assert not runs.keep(verdict(5), 10), "not the one that was announced"
    assert runs.keep(verdict(2, goes_on=False), 20)
    assert not runs.under_way
    assert not runs.expects(1, 0)
    assert runs.take(1, 2) is None
    for length in (1, 2):
        assert runs.expects(1, length)
        kept = runs.take(1, length)
        assert kept is not None
        assert (kept[0].committed_length, kept[1]) == (length, 10 * length)
    assert not runs.expects(1, 3)


def test_a_refusal_may_end_a_run() -> None:
    runs = Runs()
    runs.begin(verdict(0))
    assert runs.keep(pb.Refused(sequence=1, committed_length=1), 1)
    assert not runs.under_way
    assert runs.take(1, 1) is not None


def test_what_is_kept_is_bounded() -> None:
    runs = Runs()
    runs.begin(verdict(0))
    for length in range(1, MAX_RUN_TOKENS + 1):
        assert runs.keep(verdict(length), 1)
    with pytest.raises(RunTooLong):
        runs.keep(verdict(MAX_RUN_TOKENS + 1), 1)


async def test_a_verifier_that_never_stops_is_left() -> None:
    class Endless:
        """Answers one question for ever."""

        def __init__(self) -> None:
            self.length = -1

        async def send(self, frame: pb.ClientFrame) -> None:
            return

        async def receive(self) -> pb.ServerFrame:
            await asyncio.sleep(0)
            if self.length < 0:
                self.length = 0
                return pb.ServerFrame(welcome=pb.Welcome(revision=1))
            self.length += 1
            return pb.ServerFrame(verdict=verdict(self.length - 1))

        async def close(self) -> None:
            return

    stream = await handshake(Endless(), DeviceFacts("d"), "there")
    await stream.exchange(1, 0, (), 10.0)
    await until(lambda: stream.ended is not None)
    assert stream.ended is not None
    assert stream.ended.reason == "malformed"
    await stream.close()


async def test_a_run_does_not_hide_that_nobody_is_there() -> None:
    target = ToyTarget()
    verifiers = busy(target)
    impatient = settings(offline=IMPATIENT)
    async with running_loop(resilient(verifiers), drafter(target), impatient, fixed(4)) as loop:
        text = loop.generate(GenerationRequest(PROMPT, TOKENS, GREEDY))
        await anext(text)
        verifiers["a"].kill()
        with pytest.raises(GenerationError):
            await asyncio.wait_for(_drain(text), 120)


async def _drain(text: object) -> None:
    async for _ in text:  # type: ignore[attr-defined]
        pass
