"""Frames of sled.v1 to and from this package's values; every field of a device is checked here.
Must not keep state.

Nothing a device sends reaches the backend unchecked: ids are inside the vocabulary, distributions
are distributions, names are short, numbers are in range. What is wrong becomes a `Refusal` whose
sentence names the field.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from sled_protocol import limits as wire
from sled_protocol.confidence import MalformedConfidences, unpack_confidences
from sled_protocol.distribution import MalformedDistribution, unpack
from sled_protocol.v1 import verifier_pb2 as pb
from sled_speculation.acceptance import MalformedDraft, check_draft
from sled_speculation.sampling import InvalidSampling
from sled_speculation.wire import from_wire
from sled_verifier.engine.base import EngineInfo
from sled_verifier.limits import Limits
from sled_verifier.refusal import Reason, Refusal
from sled_verifier.rounds import TOKEN_ARRAY, DraftRequest, Load, OpenRequest, RoundVerdict


@dataclass(frozen=True, slots=True)
class Greeting:
    """A checked `Hello` and the revision chosen for it."""

    revision: int
    device_id: str
    device_class: str
    draft_model: str
    draft_revision: str = ""
    batches: bool = False
    """Whether it reads several verdicts in one frame."""


def model_message(info: EngineInfo, limits: Limits, engine: str) -> pb.Model:
    """What is served and within which limits; `engine` names backend and engine."""
    return pb.Model(
        name=info.model_name,
        tokenizer_fingerprint=info.tokenizer_fingerprint,
        vocab_size=info.vocab_size,
        context_tokens=info.context_tokens,
        max_draft_tokens=limits.max_draft_tokens,
        max_draft_probs=wire.MAX_DRAFT_PROBS,
        max_sequences_per_device=limits.max_sequences_per_device,
        engine=engine,
        exactness=info.exactness,
        end_tokens=info.end_tokens,
        min_revision=wire.MIN_REVISION,
        max_revision=wire.REVISION,
        guides=info.guides,
    )


def read_hello(frame: pb.ClientFrame, info: EngineInfo) -> Greeting:
    """The first frame of a stream.

    Raises:
        Refusal: MALFORMED, UNSUPPORTED_REVISION or TOKENIZER_MISMATCH.
    """
    if frame.WhichOneof("frame") != "hello":
        raise Refusal(Reason.MALFORMED, "the first frame of a stream must be Hello")
    hello = frame.hello
    _check_name("device_id", hello.device_id, wire.MAX_DEVICE_ID_BYTES, required=True)
    _check_name("device_class", hello.device_class, wire.MAX_NAME_BYTES)
    _check_name("draft_model", hello.draft_model, wire.MAX_NAME_BYTES)
    _check_name("revision", hello.revision, wire.MAX_NAME_BYTES)
    revision = min(wire.REVISION, hello.max_revision)
    if revision < max(wire.MIN_REVISION, hello.min_revision):
        raise Refusal(
            Reason.UNSUPPORTED_REVISION,
            f"the device speaks revisions {hello.min_revision} to {hello.max_revision}, "
            f"this replica {wire.MIN_REVISION} to {wire.REVISION}",
        )
    fingerprint = hello.tokenizer_fingerprint
    if fingerprint and fingerprint != info.tokenizer_fingerprint:
        raise Refusal(
            Reason.TOKENIZER_MISMATCH,
            f"the device's vocabulary is not that of {info.model_name}: "
            "use a draft model of the same family",
        )
    return Greeting(
        revision,
        hello.device_id,
        hello.device_class,
        hello.draft_model,
        hello.revision,
        hello.batches,
    )


def read_open(message: pb.Open, device_id: str, info: EngineInfo) -> OpenRequest:
    """An `Open` with everything about it checked except what depends on the replica's load.

    Raises:
        Refusal: MALFORMED, UNKNOWN_MODEL, INVALID_SAMPLING or PROMPT_TOO_LONG.
    """
    if message.sequence == 0:
        raise Refusal(Reason.MALFORMED, "Open.sequence is 0; allowed: 1 or more")
    if message.model and message.model != info.model_name:
        _check_name("Open.model", message.model, wire.MAX_NAME_BYTES)
        raise Refusal(
            Reason.UNKNOWN_MODEL, f"the model asked for is not served here; {info.model_name} is"
        )
    if not message.prompt_tokens:
        raise Refusal(Reason.MALFORMED, "Open.prompt_tokens is empty; allowed: at least one token")
    allowed = min(info.context_tokens - 1, wire.MAX_PROMPT_TOKENS)
    if len(message.prompt_tokens) > allowed:
        raise Refusal(
            Reason.PROMPT_TOO_LONG,
            f"the prompt has {len(message.prompt_tokens)} tokens; allowed: {allowed}",
        )
    if len(message.committed_tokens) > wire.MAX_SEQUENCE_TOKENS:
        raise Refusal(Reason.CONTEXT_FULL, "committed_tokens alone are longer than any sequence")
    try:
        sampling = from_wire(message.sampling)
    except InvalidSampling as error:
        raise Refusal(Reason.INVALID_SAMPLING, f"sampling.{error}") from error
    return OpenRequest(
        device_id,
        _tokens("prompt_tokens", message.prompt_tokens, info.vocab_size),
        _tokens("committed_tokens", message.committed_tokens, info.vocab_size),
        sampling,
    )


def read_draft(message: pb.Draft, info: EngineInfo, limits: Limits) -> DraftRequest:
    """A `Draft` whose tokens and distributions fit each other and the vocabulary.

    Raises:
        Refusal: MALFORMED or DRAFT_TOO_LONG.
    """
    if len(message.draft_tokens) > limits.max_draft_tokens:
        raise Refusal(
            Reason.DRAFT_TOO_LONG,
            f"the draft has {len(message.draft_tokens)} tokens; allowed: {limits.max_draft_tokens}",
        )
    tokens = tuple(message.draft_tokens)
    try:
        distributions = unpack(
            message.draft_probs, info.vocab_size, wire.MAX_DRAFT_PROBS, len(tokens)
        )
        check_draft(tokens, distributions, info.vocab_size)
        confidences = unpack_confidences(message.draft_confidences, len(tokens))
    except (MalformedDistribution, MalformedDraft, MalformedConfidences) as error:
        raise Refusal(Reason.MALFORMED, str(error)) from error
    deadline_ms = min(message.deadline_ms, wire.MAX_DEADLINE_MS)
    return DraftRequest(
        message.committed_length,
        message.prefix_hash,
        tokens,
        distributions,
        deadline_ms / 1000 if deadline_ms else None,
        confidences,
        min(message.run_tokens, wire.MAX_RUN_TOKENS),
        message.run_on,
        message.HasField("follows_token"),
    )


def verdict_frame(sequence: int, verdict: RoundVerdict, *, goes_on: bool = False) -> pb.ServerFrame:
    """The answer to a draft; `goes_on` announces another one that needs no asking."""
    kind = pb.NEXT_TOKEN_KIND_BONUS if verdict.bonus else pb.NEXT_TOKEN_KIND_RECOVERED
    return pb.ServerFrame(
        verdict=pb.Verdict(
            sequence=sequence,
            committed_length=verdict.committed_length,
            accepted=verdict.accepted,
            verified=verdict.verified,
            next_token=verdict.next_token,
            next_token_kind=kind,
            queue_micros=_micros(verdict.queue_seconds),
            compute_micros=_micros(verdict.compute_seconds),
            max_draft_tokens_hint=verdict.max_draft_tokens_hint,
            load=load_message(verdict.load),
            goes_on=goes_on,
        )
    )


def refused_frame(sequence: int, refusal: Refusal, committed_length: int = 0) -> pb.ServerFrame:
    """A typed no; `sequence` 0 is the stream as a whole."""
    return pb.ServerFrame(
        refused=pb.Refused(
            sequence=sequence,
            reason=pb.RefusalReason.ValueType(refusal.reason.value),
            message=refusal.message[: wire.MAX_MESSAGE_CHARACTERS],
            retry_after_ms=refusal.retry_after_ms,
            committed_length=committed_length,
        )
    )


def load_message(load: Load) -> pb.Load:
    """How busy the replica is."""
    return pb.Load(
        queue_depth=load.queue_depth,
        active_sequences=load.active_sequences,
        step_tokens=load.step_tokens,
    )


def _tokens(field: str, tokens: Sequence[int], vocab_size: int) -> array[int]:
    if tokens and max(tokens) >= vocab_size:
        raise Refusal(Reason.MALFORMED, f"{field} has an id outside the vocabulary of {vocab_size}")
    return array(TOKEN_ARRAY, tokens)


def _check_name(field: str, value: str, max_bytes: int, *, required: bool = False) -> None:
    if required and not value:
        raise Refusal(Reason.MALFORMED, f"{field} is empty")
    if len(value.encode()) > max_bytes:
        raise Refusal(Reason.MALFORMED, f"{field} is longer than {max_bytes} bytes")
    if not value.isprintable():
        raise Refusal(Reason.MALFORMED, f"{field} has characters that cannot be printed")


def _micros(seconds: float) -> int:
    return min(round(seconds * 1e6), 2**32 - 1)
