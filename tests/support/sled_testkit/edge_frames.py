"""Interchangeable verifiers at the level of frames, inside the test's process, with a switch for every kind of trouble."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sled_edge.fake_link import ToyTarget
from sled_edge.link_transport import StreamEnded
from sled_protocol.distribution import unpack
from sled_protocol.prefix import prefix_hash
from sled_protocol.v1 import verifier_pb2 as pb
from sled_speculation.acceptance import verify_draft
from sled_speculation.transforms import TokenSet
from sled_speculation.wire import from_wire


@dataclass
class _Sequence:
    tokens: list[int]
    prompt_length: int
    sampling: pb.Sampling
    answered: dict[tuple[int, int], pb.Verdict] = field(default_factory=dict)


class Replica:
    """One verifier: what it holds, and what it was asked."""

    def __init__(self, name: str, target: ToyTarget, model: pb.Model) -> None:
        self.name = name
        self.target = target
        self.model = model
        self.up = True
        self.draining = False
        self.silent = False
        self.hello_refusal: pb.Refused | None = None
        self.refusals: list[pb.Refused] = []
        """Answered to the next Drafts, one each, instead of verdicts."""
        self.opens: list[pb.Open] = []
        self.drafts: list[pb.Draft] = []
        self.streams: list[_Stream] = []
        self.hellos: list[pb.Hello] = []
        self.hint = 16
        self.unasked = 0
        """Verdicts that nobody had to ask for."""
        self.breaks_word = False
        """Announces a verdict and does not send it."""

    @property
    def open_sequences(self) -> int:
        """Sequences that are open on any stream."""
        return sum(len(stream.sequences) for stream in self.streams)

    def kill(self) -> None:
        """Die: all streams end, everything is forgotten, nobody can connect."""
        self.up = False
        for stream in tuple(self.streams):
            stream.cut("the verifier was killed")

    def restart(self) -> None:
        """Come back without memory."""
        self.up = True
        self.draining = False

    def drain(self, within_ms: int = 5000) -> None:
        """Announce the end and take nothing new."""
        self.draining = True
        for stream in self.streams:
            frame = pb.ServerFrame(drain=pb.Drain(within_ms=within_ms, reason="test"))
            stream.inbox.put_nowait(frame)

    def answer(self, stream: _Stream, frame: pb.ClientFrame) -> list[pb.ServerFrame]:
        """What the verifier says to one frame."""
        kind = frame.WhichOneof("frame")
        if kind == "hello":
            return [self._hello(frame.hello)]
        if kind == "open":
            return self._open(stream, frame.open)
        if kind == "draft":
            return self._run(stream, frame.draft)
        stream.sequences.pop(frame.close.sequence, None)
        return []

    def _hello(self, hello: pb.Hello) -> pb.ServerFrame:
        self.hellos.append(hello)
        if self.hello_refusal is not None:
            return pb.ServerFrame(refused=self.hello_refusal)
        return pb.ServerFrame(welcome=pb.Welcome(revision=1, model=self.model, replica=self.name))

    def _open(self, stream: _Stream, opening: pb.Open) -> list[pb.ServerFrame]:
        self.opens.append(opening)
        if self.draining:
            return [_refused(opening.sequence, pb.REFUSAL_REASON_DRAINING)]
        if opening.sequence in stream.sequences:
            return [_refused(opening.sequence, pb.REFUSAL_REASON_DUPLICATE_SEQUENCE)]
        if opening.model and opening.model != self.model.name:
            return [_refused(opening.sequence, pb.REFUSAL_REASON_UNKNOWN_MODEL)]
        stream.sequences[opening.sequence] = _Sequence(
            [*opening.prompt_tokens, *opening.committed_tokens],
            len(opening.prompt_tokens),
            opening.sampling,
        )
        return [pb.ServerFrame(opened=pb.Opened(sequence=opening.sequence))]

    def _run(self, stream: _Stream, draft: pb.Draft) -> list[pb.ServerFrame]:
        """The answer to a draft and those that follow unasked, all at once."""
        frames = [self._draft(stream, draft)]
        left = draft.run_tokens
        while frames[-1].HasField("verdict") and (draft.run_on or not self.hint):
            verdict = frames[-1].verdict
            left -= verdict.accepted + 1
            verdict.goes_on = left > 0 and verdict.next_token not in self.model.end_tokens
            if not verdict.goes_on or self.breaks_word:
                break
            held = stream.sequences[draft.sequence]
            length = len(held.tokens) - held.prompt_length
            plain = pb.Draft(
                sequence=draft.sequence,
                committed_length=length,
                prefix_hash=prefix_hash(held.tokens),
            )
            frames.append(pb.ServerFrame(verdict=self._judge(held, plain)))
            self.unasked += 1
        return frames

    def _draft(self, stream: _Stream, draft: pb.Draft) -> pb.ServerFrame:
        self.drafts.append(draft)
        if self.draining:
            return _refused(draft.sequence, pb.REFUSAL_REASON_DRAINING)
        if self.refusals:
            refusal = self.refusals.pop(0)
            refusal.sequence = draft.sequence
            return pb.ServerFrame(refused=refusal)
        sequence = stream.sequences.get(draft.sequence)
        if sequence is None:
            return _refused(draft.sequence, pb.REFUSAL_REASON_UNKNOWN_SEQUENCE)
        key = (draft.committed_length, draft.prefix_hash)
        if key in sequence.answered:
            return pb.ServerFrame(verdict=sequence.answered[key])
        length = len(sequence.tokens) - sequence.prompt_length
        if key != (length, prefix_hash(sequence.tokens)):
            return _refused(draft.sequence, pb.REFUSAL_REASON_STALE_PREFIX)
        if len(draft.draft_tokens) > self.model.max_draft_tokens:
            return _refused(draft.sequence, pb.REFUSAL_REASON_DRAFT_TOO_LONG)
        verdict = self._judge(sequence, draft)
        sequence.answered[key] = verdict
        return pb.ServerFrame(verdict=verdict)

    def _judge(self, sequence: _Sequence, draft: pb.Draft) -> pb.Verdict:
        tokens = tuple(draft.draft_tokens)
        size = self.target.vocab_size
        rows = np.stack(
            [self.target.logits([*sequence.tokens, *tokens[:i]]) for i in range(len(tokens) + 1)]
        )
        judgement = verify_draft(
            rows,
            tokens,
            unpack(draft.draft_probs, size, self.model.max_draft_probs, len(tokens)),
            from_wire(sequence.sampling),
            TokenSet(sequence.tokens),
            len(sequence.tokens),
        )
        sequence.tokens.extend(judgement.output(tokens))
        bonus, recovered = pb.NEXT_TOKEN_KIND_BONUS, pb.NEXT_TOKEN_KIND_RECOVERED
        return pb.Verdict(
            sequence=draft.sequence,
            committed_length=draft.committed_length,
            accepted=judgement.accepted,
            verified=len(tokens),
            next_token=judgement.next_token,
            next_token_kind=bonus if judgement.bonus else recovered,
            max_draft_tokens_hint=self.hint,
        )


class _Stream:
    """Satisfies `FrameStream`."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.inbox: asyncio.Queue[pb.ServerFrame | StreamEnded] = asyncio.Queue()
        self.sequences: dict[int, _Sequence] = {}
        self._over: StreamEnded | None = None

    async def send(self, frame: pb.ClientFrame) -> None:
        await asyncio.sleep(0)
        if self._over is not None:
            raise self._over.again()
        # What the verifier reads is what was serialised.
        parsed = pb.ClientFrame.FromString(frame.SerializeToString())
        for answer in self.replica.answer(self, parsed):
            if not self.replica.silent:
                self.inbox.put_nowait(answer)
            if answer.WhichOneof("frame") == "refused" and not answer.refused.sequence:
                self.cut("refused")

    async def receive(self) -> pb.ServerFrame:
        item = await self.inbox.get()
        if isinstance(item, StreamEnded):
            raise item
        return item

    async def close(self) -> None:
        self.cut("closed by the device")

    def cut(self, message: str) -> None:
        if self._over is None:
            self._over = StreamEnded("unavailable", message)
            self.sequences.clear()
            self.replica.streams.remove(self)
            self.inbox.put_nowait(self._over)


class FakeVerifiers:
    """A dialer to replicas that live in the test; endpoints are their names."""

    def __init__(
        self,
        target: ToyTarget | None = None,
        names: Sequence[str] = ("a",),
        *,
        max_draft_tokens: int = 16,
        context_tokens: int = 4096,
        model_name: str = "toy",
        tokenizer_fingerprint: bytes = b"",
    ) -> None:
        self.target = target or ToyTarget()
        ends = [self.target.end_token] if self.target.end_token >= 0 else []
        model = pb.Model(
            name=model_name,
            vocab_size=self.target.vocab_size,
            context_tokens=context_tokens,
            max_draft_tokens=max_draft_tokens,
            max_draft_probs=64,
            tokenizer_fingerprint=tokenizer_fingerprint,
            end_tokens=ends,
        )
        self.replicas = {name: Replica(name, self.target, model) for name in names}
        self.dials: list[str] = []

    def __getitem__(self, name: str) -> Replica:
        return self.replicas[name]

    async def dial(self, endpoint: str) -> _Stream:
        """See `Dialer.dial`."""
        await asyncio.sleep(0)
        self.dials.append(endpoint)
        replica = self.replicas[endpoint]
        if not replica.up:
            raise StreamEnded("unavailable", f"nobody answers at {endpoint}")
        stream = _Stream(replica)
        replica.streams.append(stream)
        return stream

    async def tokenizer(self, endpoint: str) -> bytes:
        """See `Dialer.tokenizer`."""
        if not self.replicas[endpoint].up:
            raise StreamEnded("unavailable", f"nobody answers at {endpoint}")
        return b"GGUF"


def refusal(reason: pb.RefusalReason.ValueType, retry_after_ms: int = 0) -> pb.Refused:
    """A refusal for `Replica.refusals` or `Replica.hello_refusal`."""
    return pb.Refused(reason=reason, message="refused by the test", retry_after_ms=retry_after_ms)


def _refused(sequence: int, reason: pb.RefusalReason.ValueType) -> pb.ServerFrame:
    message = pb.RefusalReason.Name(reason)
    return pb.ServerFrame(refused=pb.Refused(sequence=sequence, reason=reason, message=message))
