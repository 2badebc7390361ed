"""One sequence as the verifier knows it: soft state that can be rebuilt from prompt + committed.
Must not do I/O.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from sled_protocol.prefix import PrefixHash
from sled_speculation.transforms import TokenSet
from sled_verifier.gathering import Rhythm
from sled_verifier.refusal import Reason, Refusal
from sled_verifier.rounds import TOKEN_ARRAY, DraftRequest, OpenRequest, RoundVerdict


@dataclass(frozen=True, slots=True)
class Answered:
    """The last round that was answered, kept so that a repeated Draft gets the same Verdict."""

    committed_length: int
    prefix_hash: int
    draft_tokens: tuple[int, ...]
    verdict: RoundVerdict


class Session:
    """Prompt + committed tokens of one sequence, with everything that judging its next round needs.

    The last `foretold` of its `tokens` were chosen by the target, but no verdict has told them yet (see `foretold`).
    A session outlives its engine slot: without one it costs four bytes a token. Only the scheduler
    mutates it, and never while a round of it is in flight.
    """

    __slots__ = (
        "adapter",
        "answered",
        "device_id",
        "foretold",
        "key",
        "last_used",
        "opened_at",
        "prefix",
        "prompt_length",
        "rhythm",
        "sampling",
        "seen",
        "tail",
        "tokens",
        "weight",
    )

    def __init__(self, key: int, request: OpenRequest, now: float) -> None:
        self.key = key
        self.device_id = request.device_id
        self.tokens = array(TOKEN_ARRAY, request.prompt_tokens)
        self.tokens.extend(request.committed_tokens)
        self.foretold = 0
        self.tail: DraftRequest | None = None
        """What the last verdict left of its draft unverified, where the draft goes on being right."""
        self.prompt_length = len(request.prompt_tokens)
        self.sampling = request.sampling
        self.weight = request.weight
        self.adapter = request.adapter
        self.prefix = PrefixHash(self.tokens)
        # Only the repetition penalty looks at it; a set per sequence costs far more than the tokens
        # themselves.
        self.seen = TokenSet(self.tokens if request.sampling.repetition_penalty != 1 else ())
        self.answered: Answered | None = None
        self.opened_at = now
        self.last_used = now
        self.rhythm = Rhythm()

    @property
    def told_length(self) -> int:
        """Tokens that its device knows: prompt and committed ones."""
        return len(self.tokens) - self.foretold

    @property
    def committed_length(self) -> int:
        """Output tokens of all rounds so far, those of an earlier replica included."""
        return self.told_length - self.prompt_length

    @property
    def cacheable_length(self) -> int:
        """Tokens a slot holds between rounds: all but the last, whose logits the next round asks
        for.
        """
        return len(self.tokens) - 1

    @property
    def tail_tokens(self) -> tuple[int, ...]:
        """The draft tokens of `tail`."""
        return self.tail.draft_tokens if self.tail is not None else ()

    def untold(self) -> array[int]:
        """The foretold tokens."""
        return self.tokens[self.told_length :]

    def replay(self, draft: DraftRequest) -> RoundVerdict | None:
        """The verdict already given to this very draft, or None when the draft is the next round.

        Raises:
            Refusal: STALE_PREFIX when the draft builds on anything but this session's tokens.
        """
        last = self.answered
        if (
            last is not None
            and draft.committed_length == last.committed_length
            and draft.prefix_hash == last.prefix_hash
            and draft.draft_tokens == last.draft_tokens
        ):
            return last.verdict
        if draft.committed_length != self.committed_length:
            raise Refusal(
                Reason.STALE_PREFIX,
                f"committed_length is {draft.committed_length}, this replica holds "
                f"{self.committed_length}; open the sequence again with its committed tokens",
            )
        if draft.prefix_hash is not None and draft.prefix_hash != self.prefix.value:
            raise Refusal(
                Reason.STALE_PREFIX,
                "prefix_hash differs from this replica's prompt and committed tokens; "
                "open the sequence again",
            )
        return None

    def foretell(self, tokens: Sequence[int]) -> None:
        """The target has chosen these after all that is known."""
        self.tokens.extend(tokens)
        self.foretold += len(tokens)
        self.tail = None

    def commit(self, draft: DraftRequest, verdict: RoundVerdict, now: float) -> None:
        """Append the round's output and remember its verdict."""
        self.answered = Answered(
            draft.committed_length, self.prefix.value, draft.draft_tokens, verdict
        )
        output = (*draft.draft_tokens[: verdict.accepted], verdict.next_token)
        self.tail = _tail(draft, verdict)
        told = min(self.foretold, len(output))
        self.foretold -= told
        self.tokens.extend(output[told:])
        self.prefix.extend(output)
        if self.sampling.repetition_penalty != 1:
            self.seen.extend(output)
        self.rhythm.answered(now)
        self.last_used = now


def _tail(draft: DraftRequest, verdict: RoundVerdict) -> DraftRequest | None:
    kept = verdict.accepted + 1
    more = len(draft.draft_tokens) > kept
    right = more and draft.draft_tokens[verdict.accepted] == verdict.next_token
    return draft.beyond(kept) if right else None
