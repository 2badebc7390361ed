"""Frames of `sled.v1` to and from the values the device works with. Pure translation; decides nothing."""

from __future__ import annotations

from dataclasses import dataclass

from sled_edge.link import RoundDraft, SequenceView, Target
from sled_protocol.confidence import pack_confidences
from sled_protocol.distribution import pack
from sled_protocol.limits import MAX_DEADLINE_MS, MIN_REVISION, REVISION
from sled_protocol.v1 import verifier_pb2 as pb
from sled_speculation.wire import to_wire

_MAX_UINT32 = 2**32 - 1
_PREFIX = "REFUSAL_REASON_"


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """Who is calling: the contents of Hello."""

    device_id: str
    device_class: str = ""
    draft_model: str = ""
    tokenizer_fingerprint: bytes = b""
    """Empty while the device has no vocabulary yet."""
    revision: str = ""


def hello_frame(facts: DeviceFacts) -> pb.ClientFrame:
    """The first frame of a stream."""
    return pb.ClientFrame(
        hello=pb.Hello(
            min_revision=MIN_REVISION,
            max_revision=REVISION,
            device_id=facts.device_id,
            device_class=facts.device_class,
            draft_model=facts.draft_model,
            tokenizer_fingerprint=facts.tokenizer_fingerprint,
            revision=facts.revision,
            batches=True,
        )
    )


def open_frame(wire_id: int, view: SequenceView) -> pb.ClientFrame:
    """Start or resume a sequence under `wire_id`."""
    return pb.ClientFrame(
        open=pb.Open(
            sequence=wire_id,
            prompt_tokens=view.prompt_tokens,
            committed_tokens=view.committed_tokens,
            sampling=to_wire(view.sampling),
            model=view.model,
        )
    )


def draft_frame(
    wire_id: int, draft: RoundDraft, deadline_seconds: float, follows_token: int | None = None
) -> pb.ClientFrame:
    """One round's proposal; with `follows_token` ahead of the verdict that must bring that token."""
    return pb.ClientFrame(
        draft=pb.Draft(
            sequence=wire_id,
            committed_length=draft.committed_length,
            prefix_hash=draft.prefix_hash,
            draft_tokens=draft.tokens,
            draft_probs=pack(draft.distributions),
            draft_confidences=pack_confidences(draft.confidences),
            draft_micros=min(int(draft.draft_seconds * 1e6), _MAX_UINT32),
            deadline_ms=max(1, min(int(deadline_seconds * 1000), MAX_DEADLINE_MS)),
            run_tokens=draft.run_tokens,
            run_on=draft.run_on,
            follows_token=follows_token,
        )
    )


def close_frame(wire_id: int) -> pb.ClientFrame:
    """End a sequence."""
    return pb.ClientFrame(close=pb.Close(sequence=wire_id))


def target_of(welcome: pb.Welcome, endpoint: str) -> Target:
    """What the verifier at `endpoint` serves."""
    model = welcome.model
    return Target(
        model_name=model.name,
        tokenizer_fingerprint=model.tokenizer_fingerprint,
        vocab_size=model.vocab_size,
        context_tokens=model.context_tokens,
        max_draft_tokens=model.max_draft_tokens,
        max_draft_probs=model.max_draft_probs,
        max_sequences=model.max_sequences_per_device,
        end_tokens=tuple(model.end_tokens),
        engine=model.engine,
        exactness=model.exactness,
        replica=welcome.replica,
        endpoint=endpoint,
        guides=model.guides,
        takes_ahead=welcome.takes_ahead,
    )


def reason_name(reason: int) -> str:
    """A refusal's reason as errors, metrics and logs spell it, e.g. `queue_full`; unknown numbers are `unspecified`."""
    try:
        name = pb.RefusalReason.Name(pb.RefusalReason.ValueType(reason))
    except ValueError:
        return "unspecified"
    return name.removeprefix(_PREFIX).lower()


def verdict_problem(verdict: pb.Verdict, draft: RoundDraft, vocab_size: int) -> str:
    """Why a verdict cannot be one on this draft, in a sentence; empty when it can."""
    if verdict.verified > len(draft.tokens):
        return f"the verdict looked at {verdict.verified} of {len(draft.tokens)} draft tokens"
    if verdict.accepted > verdict.verified:
        return f"the verdict accepts {verdict.accepted} of {verdict.verified} verified tokens"
    if verdict.next_token >= vocab_size:
        return f"the verdict's token is outside the vocabulary of {vocab_size}"
    return ""
