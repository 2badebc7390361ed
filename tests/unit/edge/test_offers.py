"""Drafts sent before the verdict: the same rounds and texts, fewer ways there and back, and nothing left half known."""

from __future__ import annotations

import asyncio

import pytest

from sled_edge.config import DraftingMode
from sled_edge.drafter.fake import FakeDrafter
from sled_edge.fake_link import FakeLink, ToyTarget
from sled_edge.generation import GenerationRequest
from sled_edge.link import RoundDraft
from sled_edge.link_frames import DeviceFacts
from sled_edge.link_runs import Runs
from sled_edge.link_stream import AnswerLate, VerifierStream, handshake
from sled_protocol.v1 import verifier_pb2 as pb
from sled_speculation.sampling import SamplingParams
from sled_testkit.edge import collect, fixed, resilient, running_loop, settings, until

PROMPT = (3, 1, 4, 1, 5, 9, 2, 6)
GREEDY = SamplingParams()


@pytest.mark.parametrize("accuracy", [1.0, 0.9, 0.5])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("mode", list(DraftingMode))
async def test_the_same_rounds_as_without(
    accuracy: float, temperature: float, mode: DraftingMode
) -> None:
    target = ToyTarget()
    request = GenerationRequest(PROMPT, 40, SamplingParams(temperature=temperature, seed=7))
    seen = []
    for ahead in (False, True):
        link = FakeLink(target, delay_seconds=0.004)
        async with running_loop(
            link,
            FakeDrafter(target.logits, accuracy=accuracy),
            settings(mode=mode, draft_ahead=ahead),
            fixed(3),
        ) as loop:
            text = (await collect(loop, request)).tokens
        seen.append((text, [(r.tokens, r.distributions, r.prefix_hash) for r in link.rounds]))
    assert seen[0] == seen[1]
    assert link.offers


async def test_a_draft_that_holds_is_asked_as_it_was_offered() -> None:
    target = ToyTarget()
    link = FakeLink(target, delay_seconds=0.01)
    async with running_loop(
        link, FakeDrafter(target.logits, accuracy=1.0), settings(draft_ahead=True), fixed(3)
    ) as loop:
        text = await collect(loop, GenerationRequest(PROMPT, 41, GREEDY))
    assert text.tokens == target.text(PROMPT, 41, GREEDY)
    # All rounds but the first, which has no draft, and none beyond the last.
    assert [offer.tokens for offer in link.offers] == [r.tokens for r in link.rounds[1:]]
    assert [len(r.tokens) for r in link.rounds] == [0] + [3] * 10


@pytest.mark.parametrize("tokens", [1, 2, 5, 9, 10])
async def test_nothing_is_offered_beyond_the_last_token(tokens: int) -> None:
    target = ToyTarget()
    link = FakeLink(target, delay_seconds=0.01)
    async with running_loop(
        link, FakeDrafter(target.logits, accuracy=1.0), settings(draft_ahead=True), fixed(4)
    ) as loop:
        await collect(loop, GenerationRequest(PROMPT, tokens, GREEDY))
    for offer in link.offers:
        assert offer.committed_length + len(offer.tokens) < tokens
        assert offer.run_tokens <= tokens - offer.committed_length


async def test_nothing_is_offered_after_an_end_token() -> None:
    target = ToyTarget(vocab_size=24, end_token=5)
    drafter = FakeDrafter(target.logits, accuracy=1.0)
    for first in range(12):
        link = FakeLink(target, delay_seconds=0.005)
        async with running_loop(link, drafter, settings(draft_ahead=True), fixed(3)) as loop:
            await collect(loop, GenerationRequest((first, 1, 2), 60, GREEDY))
        whole = target.text((first, 1, 2), 80, GREEDY)
        end = whole.index(5) if 5 in whole else len(whole)
        assert all(offer.committed_length <= end for offer in link.offers)


def verdict(length: int, accepted: int, token: int, *, goes_on: bool = False) -> pb.Verdict:
    return pb.Verdict(
        sequence=1,
        committed_length=length,
        accepted=accepted,
        verified=accepted,
        next_token=token,
        goes_on=goes_on,
    )


@pytest.mark.parametrize(
    ("message", "follows"),
    [
        (verdict(4, 3, 9), True),
        (verdict(4, 3, 8), False),
        (verdict(4, 2, 9), False),
        (verdict(4, 3, 9, goes_on=True), True),  # for another reason: it goes on by itself
        (pb.Refused(sequence=1, committed_length=8), False),
    ],
)
def test_an_offer_is_answered_where_the_verdict_agrees(
    message: pb.Verdict | pb.Refused, follows: bool
) -> None:
    runs = Runs()
    runs.offered(1, 8, 9)
    runs.begin(message)
    assert runs.expects(1, 8) is follows
    runs.begin(verdict(4, 3, 9))
    assert not runs.expects(1, 8), "an offer counts once"


def test_an_offer_ends_with_its_sequence() -> None:
    runs = Runs()
    runs.offered(1, 8, 9)
    runs.drop(1)
    runs.begin(verdict(4, 3, 9))
    assert not runs.expects(1, 8)


class Verifier:
    """The far side of streams that the test answers by hand."""

    def __init__(self, *, takes_ahead: bool = True) -> None:
        self.welcome = pb.Welcome(revision=1, takes_ahead=takes_ahead)
        self.welcome.model.CopyFrom(pb.Model(name="toy", vocab_size=64, max_draft_tokens=4))
        self.received: list[pb.ClientFrame] = []
        self._answers: asyncio.Queue[pb.ServerFrame] = asyncio.Queue()

    async def dial(self, endpoint: str) -> Verifier:
        self._answers.put_nowait(pb.ServerFrame(welcome=self.welcome))
        return self

    async def tokenizer(self, endpoint: str) -> bytes:
        return b""

    async def send(self, frame: pb.ClientFrame) -> None:
        self.received.append(frame)

    async def receive(self) -> pb.ServerFrame:
        return await self._answers.get()

    async def close(self) -> None:
        return

    def answer(self, message: pb.Verdict) -> None:
        self._answers.put_nowait(pb.ServerFrame(verdict=message))

    def kinds(self) -> list[str]:
        return [str(frame.WhichOneof("frame")) for frame in self.received[1:]]


class View:
    """Satisfies `SequenceView`."""

    sequence = 1
    prompt_tokens = (1, 2)
    committed_tokens = (3, 4, 5, 6)
    sampling = GREEDY
    model = ""


ROUND = RoundDraft(4, 99, (7, 8, 9))
OFFER = RoundDraft(8, 100, (11, 12))


async def test_a_link_sends_an_offer_and_waits_for_its_verdict() -> None:
    verifier = Verifier()
    link = resilient(verifier)
    await link.start()
    assert not link.offer(View(), OFFER, 10), "no round is under way"
    first = asyncio.create_task(link.verify(View(), ROUND, 5.0))
    await until(lambda: verifier.kinds() == ["open", "draft"])
    assert link.offer(View(), OFFER, 10)
    await until(lambda: len(verifier.received) == 4)
    sent = verifier.received[3].draft
    assert (sent.committed_length, sent.prefix_hash, sent.follows_token) == (8, 100, 10)
    assert not verifier.received[2].draft.HasField("follows_token")
    verifier.answer(verdict(4, 3, 10))
    assert (await first).follows
    second = asyncio.create_task(link.verify(View(), OFFER, 5.0))
    verifier.answer(verdict(8, 2, 1))
    found = await second
    assert (found.accepted, found.follows) == (2, False)
    assert found.uplink_bytes == verifier.received[3].ByteSize()
    assert verifier.kinds() == ["open", "draft", "draft"]
    await link.close()


async def test_an_offer_that_does_not_hold_is_sent_as_any_draft() -> None:
    verifier = Verifier()
    link = resilient(verifier)
    await link.start()
    first = asyncio.create_task(link.verify(View(), ROUND, 5.0))
    await until(lambda: verifier.kinds() == ["open", "draft"])
    assert link.offer(View(), OFFER, 10)
    verifier.answer(verdict(4, 3, 11))
    assert not (await first).follows
    second = asyncio.create_task(link.verify(View(), OFFER, 5.0))
    await until(lambda: verifier.kinds() == ["open", "draft", "draft", "draft"])
    assert not verifier.received[4].draft.HasField("follows_token")
    verifier.answer(verdict(8, 0, 1))
    await second
    await link.close()


@pytest.mark.parametrize(
    ("takes_ahead", "draft"),
    [(False, OFFER), (True, RoundDraft(8, 100, (1, 2, 3, 4, 5)))],
    ids=["nobody takes it", "longer than allowed"],
)
async def test_what_the_verifier_would_refuse_is_not_offered(
    takes_ahead: bool, draft: RoundDraft
) -> None:
    verifier = Verifier(takes_ahead=takes_ahead)
    link = resilient(verifier)
    await link.start()
    first = asyncio.create_task(link.verify(View(), ROUND, 5.0))
    await until(lambda: verifier.kinds() == ["open", "draft"])
    assert not link.offer(View(), draft, 10)
    verifier.answer(verdict(4, 3, 10))
    assert not (await first).follows
    assert verifier.kinds() == ["open", "draft"]
    await link.close()


async def test_after_a_silence_nobody_counts_on_an_offer() -> None:
    """What the verifier has made of it is not known, and an answer to it is none to another draft."""
    verifier = Verifier()
    await verifier.dial("there")
    stream: VerifierStream = await handshake(verifier, DeviceFacts("d"), "there")
    frame = pb.ClientFrame(draft=pb.Draft(sequence=1))
    waiting = asyncio.create_task(stream.exchange(1, 4, [frame], 0.05))
    await until(lambda: len(verifier.received) == 2)
    assert stream.offer(1, 8, 10, frame)
    with pytest.raises(AnswerLate):
        await waiting
    verifier.answer(verdict(4, 3, 10))
    await until(lambda: stream.counters.stray_answers == 1)
    assert not stream.runs.expects(1, 8)
    await stream.close()
