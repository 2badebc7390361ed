"""What the speculation loop asks of the way to a verifier. Must not know drafters, texts or HTTP.

A sequence is soft state on the far side: its whole truth is the `SequenceView` that the device holds, so a link may move
it to any replica between or within rounds. Implementations: `sled_edge.link_resilient.ResilientLink` (the wire) and the
shipped fake `sled_edge.fake_link.FakeLink`.

    LinkError
    ├── VerifierUnavailable   no verifier answered in time, or none would take this device
    └── SequenceRefused       a verifier said no to this sequence for good
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from sled_protocol.distribution import DraftDistribution
from sled_speculation.sampling import SamplingParams

CANNOT_GUIDE = "the verifier's backend cannot guide output"


class LinkError(Exception):
    """A round has no verdict. `reason` is the wire's refusal name in lower case, or `unavailable`."""

    def __init__(self, reason: str, message: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


class VerifierUnavailable(LinkError):
    """No verdict within the caller's patience; the same round may succeed later, here or on another replica."""


class SequenceRefused(LinkError):
    """This sequence will be refused again however often it is sent."""


@dataclass(frozen=True, slots=True)
class Target:
    """What the connected verifier serves (its Welcome)."""

    model_name: str
    tokenizer_fingerprint: bytes
    vocab_size: int
    context_tokens: int
    max_draft_tokens: int
    max_draft_probs: int
    max_sequences: int
    """Open sequences this device may have at once; 0 = not limited."""
    end_tokens: tuple[int, ...]
    engine: str = ""
    exactness: str = ""
    replica: str = ""
    endpoint: str = ""
    guides: bool = False
    """Output can be guided."""
    takes_ahead: bool = False
    """A draft may be sent before the verdict on the one before it."""


@dataclass(frozen=True, slots=True)
class LinkState:
    """A snapshot of the link."""

    target: Target | None
    """None while no verifier is connected."""
    trouble: LinkError | None
    """Why there is none; the last reason seen."""
    connections: int
    """Handshakes completed so far; a change means that another verifier, or the same one anew, can be tried."""
    failed_attempts: int = 0
    """Attempts to connect that failed since the last one that did not."""


class SequenceView(Protocol):
    """One generation as the link sees it; only read. `sequence` is unique within the process."""

    @property
    def sequence(self) -> int:
        """The generation's number on this device."""
        ...

    @property
    def prompt_tokens(self) -> tuple[int, ...]:
        """Token ids of the prompt."""
        ...

    @property
    def committed_tokens(self) -> Sequence[int]:
        """Output tokens of all rounds so far."""
        ...

    @property
    def sampling(self) -> SamplingParams:
        """How the target's next token is chosen."""
        ...

    @property
    def model(self) -> str:
        """The target model this sequence must be served by; empty accepts any."""
        ...


@dataclass(frozen=True, slots=True)
class RoundDraft:
    """One round's proposal; `distributions` and `confidences` are each empty or as long as `tokens`."""

    committed_length: int
    prefix_hash: int
    tokens: tuple[int, ...] = ()
    distributions: tuple[DraftDistribution, ...] = ()
    draft_seconds: float = 0.0
    confidences: tuple[float, ...] = ()
    """What the drafter gives each token; not needed where distributions are sent."""
    run_tokens: int = 0
    """Output tokens, this round's among them, that the verifier may write before it is asked again, where drafts do not pay."""
    run_on: bool = False
    """Also where they do."""

    def shortened(self, max_tokens: int, max_probs: int) -> RoundDraft:
        """The longest beginning of the draft that a replica with these limits takes.

        Dropping a tail is always lossless. A distribution with more than `max_probs` entries cannot be sent, nor can its
        token without it, so the draft ends before it.
        """
        keep = min(len(self.tokens), max_tokens)
        for index, distribution in enumerate(self.distributions[:keep]):
            if len(distribution.token_ids) > max_probs:
                keep = index
                break
        if keep == len(self.tokens):
            return self
        return replace(
            self,
            tokens=self.tokens[:keep],
            distributions=self.distributions[:keep],
            confidences=self.confidences[:keep],
        )


@dataclass(frozen=True, slots=True)
class RoundVerdict:
    """The verifier's answer to one round, and what the exchange cost."""

    accepted: int
    verified: int
    next_token: int
    bonus: bool
    """True when `next_token` follows a fully accepted draft, False when it replaces a rejected token."""
    queue_seconds: float
    compute_seconds: float
    max_draft_tokens_hint: int
    """Draft length that pays at the verifier's present load; 0 = do not draft."""
    round_trip_seconds: float
    """From the first frame sent to the verdict, retries included."""
    uplink_bytes: int
    downlink_bytes: int
    model_name: str = ""
    """The target model that judged."""
    replica: str = ""
    goes_on: bool = False
    """The verifier goes on by itself: the next round is under way, and its draft must have no tokens."""
    follows: bool = False
    """The draft that was offered holds: the next round is under way, and its draft must be that one."""


class Link(Protocol):
    """The way to any of the interchangeable verifiers, with all sequences of the device on it."""

    async def start(self) -> None:
        """Begin connecting in the background; returns at once."""
        ...

    def state(self) -> LinkState:
        """What is connected right now."""
        ...

    async def verify(
        self, view: SequenceView, draft: RoundDraft, patience_seconds: float
    ) -> RoundVerdict:
        """Have one round verified, opening or moving the sequence as needed; one call per sequence at a time.

        `patience_seconds` bounds the time without any verifier at hand; a connected verifier that is busy has its own
        bounds. Cancelling leaves the sequence open: call `release`.

        Raises:
            VerifierUnavailable: patience or retries used up.
            SequenceRefused: typed no for this sequence.
        """
        ...

    def offer(self, view: SequenceView, draft: RoundDraft, follows_token: int) -> bool:
        """Send the draft of the next round while `verify` waits for this one's verdict: it counts on all of this round being
        accepted and on this token following. Never waits; False where it was not sent. The verdict tells whether it holds.
        """
        ...

    def release(self, sequence: int) -> None:
        """The generation is over: free it on the verifier. Never waits; unknown sequences are ignored."""
        ...

    async def close(self) -> None:
        """Send what is queued, end the stream, stop all background work. The link may not be used afterwards."""
        ...
