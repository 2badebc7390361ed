"""A link to a toy target inside the process, with switches for every kind of trouble; for tests and for trying things out.

Judges drafts by the real acceptance rule, so whoever drives it sees true verdicts. Draws nothing by itself: the same rounds
get the same verdicts.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from sled_edge.link import (
    LinkError,
    LinkState,
    RoundDraft,
    RoundVerdict,
    SequenceView,
    Target,
    VerifierUnavailable,
)
from sled_protocol.prefix import prefix_hash
from sled_speculation.acceptance import verify_draft
from sled_speculation.sampling import SamplingParams
from sled_speculation.transforms import TokenSet


class ToyTarget:
    """A language model whose logits are a hash of the last few tokens: deterministic, never constant, cheap.

    `end_token` gets a logit that makes it rare; -1 leaves it out.
    """

    def __init__(
        self, vocab_size: int = 64, order: int = 2, end_token: int = -1, salt: int = 0
    ) -> None:
        self.vocab_size = vocab_size
        self.end_token = end_token
        self._order = order
        self._salt = salt
        self._row = functools.lru_cache(maxsize=4096)(self._make_row)

    def logits(self, prefix: Sequence[int]) -> NDArray[np.float32]:
        """Logits [vocab] of the token after `prefix`; read-only."""
        return self._row(tuple(prefix[-self._order :]))

    def _make_row(self, window: tuple[int, ...]) -> NDArray[np.float32]:
        text = ",".join(map(str, window))
        digest = hashlib.blake2b(f"{self._salt}:{text}".encode(), digest_size=8).digest()
        generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))
        row = generator.standard_normal(self.vocab_size).astype(np.float32) * np.float32(2.0)
        if 0 <= self.end_token < self.vocab_size:
            row[self.end_token] -= np.float32(2.0)
        row.setflags(write=False)
        return row

    def next_token(self, prefix: Sequence[int]) -> int:
        """The greedy token after `prefix`."""
        return int(self.logits(prefix).argmax())

    def text(self, prompt: Sequence[int], tokens: int, sampling: SamplingParams) -> list[int]:
        """See `target_text`."""
        return target_text(self.logits, prompt, tokens, sampling)


def target_text(
    logits: Callable[[Sequence[int]], NDArray[np.float32]],
    prompt: Sequence[int],
    tokens: int,
    sampling: SamplingParams,
) -> list[int]:
    """What a target alone writes after `prompt`, one token at a time; end tokens are like others."""
    prefix = list(prompt)
    for _ in range(tokens):
        seen = TokenSet(prefix)
        rows = logits(prefix)[None, :]
        prefix.append(verify_draft(rows, (), (), sampling, seen, len(prefix)).next_token)
    return prefix[len(prompt) :]


@dataclass(slots=True)
class FakeLink:
    """Satisfies `sled_edge.link.Link` over a `ToyTarget`.

    `outage` makes every round fail as if no verifier could be reached; `kill` starts one that ends by itself after some
    rounds have failed. `delay_seconds` is slept before each verdict. `refusals` are raised one per round, in order. What is
    open is in `open_sequences`, what was asked in `rounds`.
    """

    target: ToyTarget = field(default_factory=ToyTarget)
    name: str = "toy"
    context_tokens: int = 4096
    max_draft_tokens: int = 16
    max_sequences: int = 0
    guides: bool = False
    """Says that it guides, and passes over guides."""
    hint: int = 16
    delay_seconds: float = 0.0
    outage: bool = False
    refusals: list[LinkError] = field(default_factory=list)
    hold: asyncio.Event | None = None
    """While set to an event that is not set, verdicts wait for it."""
    rounds: list[RoundDraft] = field(default_factory=list)
    offers: list[RoundDraft] = field(default_factory=list)
    open_sequences: set[int] = field(default_factory=set)
    closed: bool = False
    tokenizer_fingerprint: bytes = b""
    _offered: dict[int, tuple[RoundDraft, int] | None] = field(default_factory=dict)
    """By sequence that waits for a verdict: what was offered meanwhile, with the token it counts on."""
    _due: dict[int, RoundDraft] = field(default_factory=dict)
    """By sequence: the draft that was offered and held."""
    _connections: int = 1
    _outage_rounds: int = 0

    def kill(self, failing_rounds: int = 1) -> None:
        """Nobody answers the next `failing_rounds` rounds; then a verifier without memory is back."""
        self._outage_rounds = failing_rounds
        self.open_sequences.clear()

    async def start(self) -> None:
        """See `Link.start`."""

    def state(self) -> LinkState:
        """See `Link.state`."""
        if self._away():
            return LinkState(None, _away(), self._connections, failed_attempts=1)
        ends = (self.target.end_token,) if self.target.end_token >= 0 else ()
        target = Target(
            model_name=self.name,
            tokenizer_fingerprint=self.tokenizer_fingerprint,
            vocab_size=self.target.vocab_size,
            context_tokens=self.context_tokens,
            max_draft_tokens=self.max_draft_tokens,
            max_draft_probs=64,
            max_sequences=self.max_sequences,
            end_tokens=ends,
            replica="fake",
            guides=self.guides,
            takes_ahead=True,
        )
        return LinkState(target, None, self._connections)

    async def verify(
        self, view: SequenceView, draft: RoundDraft, patience_seconds: float
    ) -> RoundVerdict:
        """See `Link.verify`."""
        if self._away():
            await asyncio.sleep(0)
            self._fail_one_round()
            raise _away()
        if self.refusals:
            raise self.refusals.pop(0)
        self.open_sequences.add(view.sequence)
        self.rounds.append(draft)
        due = self._due.pop(view.sequence, draft)
        if due != draft:
            raise LinkError("round_in_flight", "the draft is not the one that was offered")
        self._offered[view.sequence] = None
        await asyncio.sleep(self.delay_seconds)
        if self.hold is not None:
            await self.hold.wait()
        return self._with_offer(view.sequence, self._judge(view, draft), draft)

    def offer(self, view: SequenceView, draft: RoundDraft, follows_token: int) -> bool:
        """See `Link.offer`."""
        if view.sequence not in self._offered:
            return False
        self.offers.append(draft)
        self._offered[view.sequence] = draft, follows_token
        return True

    def release(self, sequence: int) -> None:
        """See `Link.release`."""
        self.open_sequences.discard(sequence)
        self._offered.pop(sequence, None)
        self._due.pop(sequence, None)

    async def close(self) -> None:
        """See `Link.close`."""
        self.closed = True
        self.open_sequences.clear()

    def _away(self) -> bool:
        return self.outage or self._outage_rounds > 0

    def _fail_one_round(self) -> None:
        if self._outage_rounds > 0:
            self._outage_rounds -= 1
            if self._outage_rounds == 0:
                self._connections += 1

    def _with_offer(self, sequence: int, verdict: RoundVerdict, draft: RoundDraft) -> RoundVerdict:
        offered = self._offered.pop(sequence, None)
        length = draft.committed_length + verdict.accepted + 1
        if offered is None:
            return verdict
        following, follows_token = offered
        if (following.committed_length, follows_token) != (length, verdict.next_token):
            return verdict
        self._due[sequence] = following
        return replace(verdict, follows=True)

    def _judge(self, view: SequenceView, draft: RoundDraft) -> RoundVerdict:
        prefix = [*view.prompt_tokens, *view.committed_tokens]
        held = prefix_hash(prefix)
        if draft.prefix_hash != held or draft.committed_length != len(view.committed_tokens):
            raise LinkError(
                "stale_prefix", "the draft builds on other tokens than the sequence has"
            )
        rows = [
            self.target.logits([*prefix, *draft.tokens[:length]])
            for length in range(len(draft.tokens) + 1)
        ]
        judgement = verify_draft(
            np.stack(rows),
            draft.tokens,
            draft.distributions,
            view.sampling,
            TokenSet(prefix),
            len(prefix),
        )
        return RoundVerdict(
            accepted=judgement.accepted,
            verified=len(draft.tokens),
            next_token=judgement.next_token,
            bonus=judgement.bonus,
            queue_seconds=0.0,
            compute_seconds=0.001,
            max_draft_tokens_hint=self.hint,
            round_trip_seconds=self.delay_seconds + 0.001,
            uplink_bytes=16 + 2 * len(draft.tokens),
            downlink_bytes=24,
            model_name=self.name,
            replica="fake",
        )


def _away() -> VerifierUnavailable:
    return VerifierUnavailable("unavailable", "no verifier can be reached", 1.0)
