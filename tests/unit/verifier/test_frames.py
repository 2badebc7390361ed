"""The door between wire and values: every field is checked, and what comes out is typed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sled_protocol import limits as wire
from sled_protocol.confidence import pack_confidences
from sled_protocol.distribution import DraftDistribution, pack
from sled_protocol.v1 import verifier_pb2 as pb
from sled_speculation.sampling import AcceptanceMode, Guide
from sled_verifier.admission import check_open
from sled_verifier.engine.fake import FakeEngine, ToyModel
from sled_verifier.frames import (
    model_message,
    read_draft,
    read_hello,
    read_open,
    refused_frame,
    verdict_frame,
)
from sled_verifier.limits import Limits
from sled_verifier.refusal import Reason, Refusal
from sled_verifier.rounds import Load, RoundVerdict

INFO = FakeEngine(model=ToyModel(vocab_size=100), context_tokens=64).info
NEUTRAL = pb.Sampling(repetition_penalty=1, top_p=1)


def test_hello() -> None:
    hello = pb.Hello(
        min_revision=1,
        max_revision=4,
        device_id="pi-1",
        device_class="pi5",
        draft_model="tiny",
        revision="r1",
    )
    greeting = read_hello(pb.ClientFrame(hello=hello), INFO)
    assert (greeting.revision, greeting.device_id) == (wire.REVISION, "pi-1")
    assert (greeting.device_class, greeting.draft_model) == ("pi5", "tiny")
    assert greeting.draft_revision == "r1"


def test_open() -> None:
    sampling = pb.Sampling(
        temperature=0.7, repetition_penalty=1.1, top_k=5, top_p=0.9, min_p=0.05, seed=3, mode=1
    )
    message = pb.Open(
        sequence=1, prompt_tokens=[1, 99], committed_tokens=[0], sampling=sampling, model="toy"
    )
    request = read_open(message, "pi-1", INFO)
    assert request.prompt_tokens.tolist() == [1, 99]
    assert request.committed_tokens.tolist() == [0]
    assert (request.sampling.temperature, request.sampling.top_p) == (0.7, 0.9)
    assert request.sampling.mode is AcceptanceMode.MATCH
    assert request.device_id == "pi-1"


def test_a_guide_is_taken_only_where_the_model_says_so() -> None:
    sampling = pb.Sampling(guide=pb.Guide(json_schema='{"type": "array"}'))
    sampling.MergeFrom(NEUTRAL)
    request = read_open(pb.Open(sequence=1, prompt_tokens=[1], sampling=sampling), "pi-1", INFO)
    assert request.sampling.guide == Guide('{"type": "array"}')
    able = replace(INFO, guides=True)
    assert [model_message(info, Limits(), "x").guides for info in (INFO, able)] == [False, True]
    check_open(request, able, Limits(), 0)
    with pytest.raises(Refusal) as caught:
        check_open(request, INFO, Limits(), 0)
    assert caught.value.reason is Reason.INVALID_SAMPLING
    assert INFO.engine in caught.value.message


def test_an_open_without_sampling_is_refused_with_the_fields_name() -> None:
    """Proto3 defaults are zero, and 0 is no repetition penalty: silence must not mean something
    else.
    """
    with pytest.raises(Refusal) as caught:
        read_open(pb.Open(sequence=1, prompt_tokens=[1]), "d", INFO)
    assert caught.value.reason is Reason.INVALID_SAMPLING
    assert "sampling.repetition_penalty" in caught.value.message


def test_draft() -> None:
    distribution = DraftDistribution(np.array([1, 7], np.uint32), np.array([255, 200], np.uint8))
    message = pb.Draft(
        sequence=1,
        committed_length=3,
        prefix_hash=2**64 - 1,
        draft_tokens=[7],
        draft_probs=pack([distribution]),
        deadline_ms=1500,
    )
    request = read_draft(message, INFO, Limits())
    assert request.draft_tokens == (7,)
    assert request.distributions == (distribution,)
    assert (request.committed_length, request.prefix_hash) == (3, 2**64 - 1)
    assert request.deadline_seconds == 1.5


@pytest.mark.parametrize(
    ("deadline_ms", "seconds"), [(0, None), (1, 0.001), (2**32 - 1, wire.MAX_DEADLINE_MS / 1000)]
)
def test_deadlines(deadline_ms: int, seconds: float | None) -> None:
    request = read_draft(pb.Draft(deadline_ms=deadline_ms), INFO, Limits())
    assert request.deadline_seconds == seconds
    assert request.distributions == ()


def test_no_sentence_repeats_what_the_device_sent() -> None:
    """A name it chose could carry anything into logs and screens."""
    for message in (
        pb.Open(sequence=1, prompt_tokens=[1], sampling=NEUTRAL, model="inject\nme"),
        pb.Open(sequence=1, prompt_tokens=[1], sampling=NEUTRAL, model="inject me"),
    ):
        with pytest.raises(Refusal) as caught:
            read_open(message, "d", INFO)
        assert "inject" not in caught.value.message


def test_frames_to_the_device() -> None:
    verdict = RoundVerdict(5, 2, 4, 77, False, 0.25, 9e9, 3, Load(1, 2, 3))
    frame = verdict_frame(9, verdict).verdict
    assert (frame.sequence, frame.committed_length, frame.accepted, frame.verified) == (9, 5, 2, 4)
    assert (frame.next_token, frame.next_token_kind) == (77, pb.NEXT_TOKEN_KIND_RECOVERED)
    assert (frame.queue_micros, frame.compute_micros) == (250_000, 2**32 - 1)
    assert (frame.max_draft_tokens_hint, frame.load.step_tokens) == (3, 3)
    refused = refused_frame(4, Refusal(Reason.QUEUE_FULL, "x" * 900, 200), 6).refused
    assert (refused.sequence, refused.reason) == (4, pb.REFUSAL_REASON_QUEUE_FULL)
    assert (refused.retry_after_ms, refused.committed_length) == (200, 6)
    assert len(refused.message) == wire.MAX_MESSAGE_CHARACTERS


def test_confidences_come_with_their_tokens_or_not_at_all() -> None:
    message = pb.Draft(
        sequence=1, draft_tokens=[1, 2], draft_confidences=pack_confidences([1.0, 0.2])
    )
    assert read_draft(message, INFO, Limits()).confidences == (1.0, 51 / 255)
    message.draft_confidences = b"\x01"
    with pytest.raises(Refusal, match="2 draft tokens came with 1 confidences") as refused:
        read_draft(message, INFO, Limits())
    assert refused.value.reason is Reason.MALFORMED
    assert pack_confidences([-1.0, 2.0]) == b"\x00\xff"
