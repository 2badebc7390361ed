"""Typed refusals and hostile answers: bounded retries, then a typed error; other sequences notice nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from sled_edge.drafter.fake import FakeDrafter
from sled_edge.drafter.ngram import NgramDrafter
from sled_edge.generation import FinishReason, GenerationError, GenerationRequest
from sled_edge.link import VerifierUnavailable
from sled_protocol.v1 import verifier_pb2 as pb
from sled_speculation.sampling import Guide, SamplingParams
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
from sled_testkit.edge_faults import TamperingDialer
from sled_testkit.edge_frames import FakeVerifiers, refusal

PROMPT = (3, 1, 4, 1, 5, 9, 2, 6)
GREEDY = SamplingParams()
REQUEST = GenerationRequest(PROMPT, 20, GREEDY)

RECOVERABLE = (
    pb.REFUSAL_REASON_UNKNOWN_SEQUENCE,
    pb.REFUSAL_REASON_STALE_PREFIX,
    pb.REFUSAL_REASON_DUPLICATE_SEQUENCE,
    pb.REFUSAL_REASON_INTERNAL,
    pb.REFUSAL_REASON_QUEUE_FULL,
    pb.REFUSAL_REASON_DEADLINE_EXCEEDED,
    pb.REFUSAL_REASON_TOO_MANY_SEQUENCES,
)
FINAL = (
    pb.REFUSAL_REASON_MALFORMED,
    pb.REFUSAL_REASON_UNKNOWN_MODEL,
    pb.REFUSAL_REASON_INVALID_SAMPLING,
    pb.REFUSAL_REASON_PROMPT_TOO_LONG,
)


def _name(reason: pb.RefusalReason.ValueType) -> str:
    return pb.RefusalReason.Name(reason).removeprefix("REFUSAL_REASON_").lower()


@pytest.mark.parametrize("reason", RECOVERABLE, ids=_name)
async def test_a_refusal_that_passes_changes_nothing(reason: pb.RefusalReason.ValueType) -> None:
    verifiers = FakeVerifiers()
    verifiers["a"].refusals = [refusal(reason, 1) for _ in range(3)]
    drafter = FakeDrafter(verifiers.target.logits, accuracy=0.7)
    async with running_loop(resilient(verifiers), drafter, lengths=fixed(3)) as loop:
        text = await collect(loop, REQUEST)
    assert text.tokens == verifiers.target.text(PROMPT, 20, GREEDY)
    # The very same draft was sent until it was judged.
    first = verifiers["a"].drafts[:4]
    assert len({(d.committed_length, d.prefix_hash, tuple(d.draft_tokens)) for d in first}) == 1


@pytest.mark.parametrize("reason", RECOVERABLE, ids=_name)
async def test_a_refusal_that_stays_ends_in_a_typed_error(
    reason: pb.RefusalReason.ValueType,
) -> None:
    verifiers = FakeVerifiers()
    verifiers["a"].refusals = [refusal(reason) for _ in range(100)]
    async with running_loop(resilient(verifiers), NgramDrafter()) as loop:
        with pytest.raises(GenerationError) as error:
            await collect(loop, REQUEST)
        assert error.value.reason == _name(reason)
        assert error.value.retry_after_seconds > 0
        sent = len(verifiers["a"].drafts)
        assert sent <= 1 + max(QUICK.max_reopens, QUICK.max_resends)
        await until(lambda: verifiers["a"].open_sequences == 0)


@pytest.mark.parametrize("reason", FINAL, ids=_name)
async def test_a_final_refusal_is_not_repeated(reason: pb.RefusalReason.ValueType) -> None:
    verifiers = FakeVerifiers()
    async with running_loop(resilient(verifiers), NgramDrafter()) as loop:
        good = await collect(loop, REQUEST)
        verifiers["a"].drafts.clear()
        verifiers["a"].refusals = [refusal(reason)]
        with pytest.raises(GenerationError) as error:
            await collect(loop, REQUEST)
        assert error.value.reason == _name(reason)
        assert len(verifiers["a"].drafts) == 1
        assert (await collect(loop, REQUEST)).tokens == good.tokens


async def test_a_context_that_is_full_sooner_than_announced_ends_the_text() -> None:
    verifiers = FakeVerifiers()
    async with running_loop(resilient(verifiers), NgramDrafter(), lengths=fixed(2)) as loop:
        text = loop.generate(REQUEST)
        first = await anext(text)
        verifiers["a"].refusals = [refusal(pb.REFUSAL_REASON_CONTEXT_FULL)]
        last = await anext(text)
    assert first.tokens
    assert last.tokens == ()
    assert last.finish is FinishReason.CONTEXT_FULL


async def test_waits_as_long_as_a_full_queue_asks_for() -> None:
    verifiers = FakeVerifiers()
    verifiers["a"].refusals = [refusal(pb.REFUSAL_REASON_QUEUE_FULL, 30)]
    patient = replace(QUICK, backoff_cap_seconds=1.0)
    clock = asyncio.get_running_loop()
    async with running_loop(resilient(verifiers, timing=patient), NgramDrafter()) as loop:
        started = clock.time()
        await collect(loop, GenerationRequest(PROMPT, 1, GREEDY))
        assert clock.time() - started >= 0.03


async def test_another_model_on_the_next_replica_does_not_continue_the_text() -> None:
    verifiers = FakeVerifiers(names=("a", "b"))
    other = pb.Model()
    other.CopyFrom(verifiers["b"].model)
    other.name = "another"
    verifiers["b"].model = other
    async with running_loop(resilient(verifiers, ("a", "b")), NgramDrafter()) as loop:
        text = loop.generate(REQUEST)
        await anext(text)
        verifiers["a"].kill()
        with pytest.raises(GenerationError) as error:
            async for _ in text:
                pass
    assert error.value.reason == "unknown_model"
    assert verifiers["b"].opens[0].model == "toy"


async def test_a_replica_with_smaller_limits_gets_shorter_drafts() -> None:
    verifiers = FakeVerifiers(names=("a", "b"))
    small = pb.Model()
    small.CopyFrom(verifiers["b"].model)
    small.max_draft_tokens = 2
    verifiers["b"].model = small
    drafter = FakeDrafter(verifiers.target.logits, accuracy=0.9)
    tokens: list[int] = []
    async with running_loop(resilient(verifiers, ("a", "b")), drafter, lengths=fixed(8)) as loop:
        async for delta in loop.generate(GenerationRequest(PROMPT, 40, GREEDY)):
            tokens.extend(delta.tokens)
            if len(tokens) > 10:
                verifiers["a"].kill()
    assert tokens == verifiers.target.text(PROMPT, 40, GREEDY)
    assert max(len(draft.draft_tokens) for draft in verifiers["a"].drafts) == 8
    assert max(len(draft.draft_tokens) for draft in verifiers["b"].drafts) == 2


@pytest.mark.parametrize(
    "nonsense",
    [
        pb.Verdict(accepted=9, verified=9, next_token=1),
        pb.Verdict(accepted=1, verified=0, next_token=1),
        pb.Verdict(accepted=0, verified=0, next_token=10_000),
    ],
)
async def test_a_verdict_that_cannot_be_one_is_never_used(nonsense: pb.Verdict) -> None:
    verifiers = FakeVerifiers()

    def tamper(number: int, frame: pb.ServerFrame) -> Sequence[pb.ServerFrame]:
        if not frame.HasField("verdict") or number > 4:
            return (frame,)
        bad = pb.Verdict()
        bad.CopyFrom(nonsense)
        bad.sequence = frame.verdict.sequence
        bad.committed_length = frame.verdict.committed_length
        return (pb.ServerFrame(verdict=bad),)

    link = resilient(TamperingDialer(verifiers, tamper))
    drafter = FakeDrafter(verifiers.target.logits, accuracy=0.7)
    async with running_loop(link, drafter, lengths=fixed(3)) as loop:
        text = await collect(loop, REQUEST)
    assert text.tokens == verifiers.target.text(PROMPT, 20, GREEDY)


@pytest.mark.parametrize(
    "frame",
    [
        pb.ServerFrame(),
        pb.ServerFrame(welcome=pb.Welcome(revision=1)),
        pb.ServerFrame(verdict=pb.Verdict(sequence=77)),
        pb.ServerFrame(opened=pb.Opened(sequence=77)),
        pb.ServerFrame(refused=pb.Refused(sequence=77)),
        pb.ServerFrame(refused=pb.Refused(reason=pb.REFUSAL_REASON_INTERNAL)),
    ],
    ids=["empty", "welcome", "stray verdict", "stray opened", "stray refused", "stream refused"],
)
async def test_frames_out_of_order_do_no_harm(frame: pb.ServerFrame) -> None:
    verifiers = FakeVerifiers()

    def tamper(number: int, real: pb.ServerFrame) -> Sequence[pb.ServerFrame]:
        return (real, frame) if number == 3 else (real,)

    link = resilient(TamperingDialer(verifiers, tamper))
    async with running_loop(link, NgramDrafter(), lengths=fixed(2)) as loop:
        text = await collect(loop, REQUEST)
    assert text.tokens == verifiers.target.text(PROMPT, 20, GREEDY)


@pytest.mark.parametrize(
    ("reason", "name"),
    [
        (pb.REFUSAL_REASON_UNAUTHENTICATED, "unauthenticated"),
        (pb.REFUSAL_REASON_UNSUPPORTED_REVISION, "unsupported_revision"),
        (pb.REFUSAL_REASON_TOKENIZER_MISMATCH, "tokenizer_mismatch"),
    ],
)
async def test_a_refused_handshake_is_named_to_those_who_wait(
    reason: pb.RefusalReason.ValueType, name: str
) -> None:
    verifiers = FakeVerifiers()
    verifiers["a"].hello_refusal = refusal(reason)
    impatient = settings(offline=IMPATIENT)
    async with running_loop(resilient(verifiers), NgramDrafter(), impatient) as loop:
        with pytest.raises(GenerationError) as error:
            await collect(loop, REQUEST)
        assert error.value.reason == name
        assert not loop.ready()
        verifiers["a"].hello_refusal = None
        await until(loop.ready)
        assert (await collect(loop, REQUEST)).tokens


async def test_a_silent_verifier_is_left_for_another() -> None:
    verifiers = FakeVerifiers(names=("a", "b"))
    quick = replace(
        QUICK,
        round_seconds=0.02,
        prefill_seconds_per_token=0.0,
        grace_seconds=0.02,
        max_reopens=1000,
    )
    tokens: list[int] = []
    async with running_loop(
        resilient(verifiers, ("a", "b"), quick), NgramDrafter(), lengths=fixed(2)
    ) as loop:
        async for delta in loop.generate(REQUEST):
            tokens.extend(delta.tokens)
            verifiers["a"].silent = True
    assert tokens == verifiers.target.text(PROMPT, 20, GREEDY)
    assert verifiers["b"].drafts


async def test_patience_ends_in_unavailable_while_nobody_answers() -> None:
    verifiers = FakeVerifiers()
    verifiers["a"].kill()
    link = resilient(verifiers)
    async with running_loop(link, NgramDrafter(), settings(offline=IMPATIENT)) as loop:
        with pytest.raises(GenerationError, match="nobody answers"):
            await collect(loop, REQUEST)
        verifiers["a"].restart()
        await until(loop.ready)
        text = loop.generate(REQUEST)
        await anext(text)
        verifiers["a"].kill()
        with pytest.raises(GenerationError) as error:
            async for _ in text:
                pass
        assert error.value.reason == "unavailable"


async def test_bytes_are_those_of_the_frames() -> None:
    verifiers = FakeVerifiers()
    received: dict[str, list[int]] = {"welcome": [], "opened": [], "verdict": []}

    def record(_number: int, frame: pb.ServerFrame) -> Sequence[pb.ServerFrame]:
        received[frame.WhichOneof("frame") or ""].append(frame.ByteSize())
        return (frame,)

    drafter = FakeDrafter(verifiers.target.logits, accuracy=1.0)
    link = resilient(TamperingDialer(verifiers, record))
    async with running_loop(link, drafter, lengths=fixed(3)) as loop:
        text = await collect(loop, REQUEST)
    replica = verifiers["a"]
    rounds = [delta.round for delta in text.deltas if delta.round is not None]
    sent = [pb.ClientFrame(draft=draft).ByteSize() for draft in replica.drafts]
    opening = pb.ClientFrame(open=replica.opens[0]).ByteSize()
    assert [r.uplink_bytes for r in rounds] == [opening + sent[0], *sent[1:]]
    first, *others = received["verdict"]
    assert [r.downlink_bytes for r in rounds] == [received["opened"][0] + first, *others]


async def test_a_closed_link_leaves_no_sequence_and_refuses_further_rounds() -> None:
    verifiers = FakeVerifiers()
    link = resilient(verifiers)
    async with running_loop(link, NgramDrafter()) as loop:
        text = loop.generate(REQUEST)
        await anext(text)
        assert verifiers["a"].open_sequences == 1
    assert verifiers["a"].open_sequences == 0
    assert not verifiers["a"].streams
    with pytest.raises(GenerationError):
        await anext(text)
    assert link.state().target is None
    assert isinstance(link.state().trouble, VerifierUnavailable | None)


GUIDED = GenerationRequest(PROMPT, 20, SamplingParams(guide=Guide('{"type": "object"}')))


async def test_a_guide_goes_to_a_verifier_that_says_it_guides() -> None:
    verifiers = FakeVerifiers()
    verifiers["a"].model.guides = True
    async with running_loop(resilient(verifiers), NgramDrafter()) as loop:
        await collect(loop, GUIDED)
        assert loop.guides() is True
    [opening] = verifiers["a"].opens
    assert opening.sampling.guide == pb.Guide(json_schema='{"type": "object"}')


async def test_a_guide_is_never_sent_to_a_verifier_that_might_pass_over_it() -> None:
    """Not at the first round, when nothing is known of the verifier yet, nor later."""
    verifiers = FakeVerifiers()
    async with running_loop(resilient(verifiers), NgramDrafter()) as loop:
        assert loop.guides() is None
        for _ in range(2):
            with pytest.raises(GenerationError) as caught:
                await collect(loop, GUIDED)
            assert caught.value.reason == "invalid_sampling"
            assert loop.guides() is False
        await collect(loop, REQUEST)
    assert [opening.sampling.HasField("guide") for opening in verifiers["a"].opens] == [False]


async def test_a_guided_text_ends_where_only_another_kind_of_verifier_is_left() -> None:
    verifiers = FakeVerifiers()
    verifiers["a"].model.guides = True
    async with running_loop(resilient(verifiers), NgramDrafter(), lengths=fixed(1)) as loop:
        deltas = loop.generate(GUIDED)
        await anext(deltas)
        verifiers["a"].kill()
        verifiers["a"].model.guides = False
        verifiers["a"].restart()
        with pytest.raises(GenerationError) as caught:
            async for _ in deltas:
                pass
    assert caught.value.reason == "invalid_sampling"
    assert len(verifiers["a"].opens) == 1
