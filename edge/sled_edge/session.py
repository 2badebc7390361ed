"""The truth of one generation: prompt, committed tokens and when to stop. Pure; knows neither link nor drafter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sled_edge.generation import FinishReason, GenerationRequest
from sled_protocol.prefix import PrefixHash
from sled_speculation.sampling import AcceptanceMode, SamplingParams


@dataclass(frozen=True, slots=True)
class Commit:
    """What one round added: `tokens` for the reader (end tokens left out) and why generation ends, if it does."""

    tokens: tuple[int, ...]
    finish: FinishReason | None


@dataclass(frozen=True, slots=True)
class StopRules:
    """What ends a generation besides its own `max_tokens`."""

    end_tokens: frozenset[int]
    context_tokens: int


class Session:
    """Prompt and committed tokens of one sequence; satisfies `sled_edge.link.SequenceView`.

    Committed tokens only ever grow: a token once handed to the reader is never taken back, whatever happens to the
    verifier.
    """

    def __init__(
        self, sequence: int, request: GenerationRequest, sampling: SamplingParams, model: str
    ) -> None:
        self.sequence = sequence
        self.prompt_tokens = request.prompt_tokens
        self.sampling = sampling
        self.model = model
        self.max_tokens = request.max_tokens
        self.ignore_end_tokens = request.ignore_end_tokens
        self._prefix = list(request.prompt_tokens)
        self._hash = PrefixHash(request.prompt_tokens)

    @property
    def committed_tokens(self) -> Sequence[int]:
        """Output tokens so far (a copy)."""
        return self._prefix[len(self.prompt_tokens) :]

    @property
    def committed_length(self) -> int:
        """Number of output tokens so far."""
        return len(self._prefix) - len(self.prompt_tokens)

    @property
    def prefix(self) -> tuple[int, ...]:
        """Prompt + committed (a copy, safe to hand to another thread)."""
        return tuple(self._prefix)

    @property
    def prefix_hash(self) -> int:
        """64-bit hash of prompt + committed, as the wire wants it."""
        return self._hash.value

    def hash_after(self, tokens: Sequence[int]) -> int:
        """What `prefix_hash` would be with these tokens committed as well."""
        following = self._hash.copy()
        following.extend(tokens)
        return following.value

    def pin_model(self, name: str) -> None:
        """From the first round on only this target may continue the text, whatever replica answers."""
        if not self.model:
            self.model = name

    def draft_room(self, rules: StopRules) -> int:
        """Most draft tokens that can still be of use: a round adds one token more than it drafts."""
        left = self.max_tokens - self.committed_length
        context = rules.context_tokens - len(self._prefix)
        return max(0, min(left, context) - 1)

    def trim_draft(self, tokens: Sequence[int], rules: StopRules) -> int:
        """How many of the drafted tokens are worth sending: none after an end token."""
        if not self.ignore_end_tokens:
            for index, token in enumerate(tokens):
                if token in rules.end_tokens:
                    return index + 1
        return len(tokens)

    def ends_in(self, tokens: Sequence[int], rules: StopRules) -> bool:
        """Whether the text would end with one of these."""
        return not self.ignore_end_tokens and not rules.end_tokens.isdisjoint(tokens)

    def finished(self, rules: StopRules) -> FinishReason | None:
        """Why not even one more token may be generated, if so."""
        if self.committed_length >= self.max_tokens:
            return FinishReason.LENGTH
        if len(self._prefix) >= rules.context_tokens:
            return FinishReason.CONTEXT_FULL
        return None

    def commit(self, output: Sequence[int], rules: StopRules) -> Commit:
        """Append a round's output up to the point where generation ends; anything beyond it is dropped."""
        taken: list[int] = []
        finish = None
        for token in output:
            if not self.ignore_end_tokens and token in rules.end_tokens:
                finish = FinishReason.END_TOKEN
                break
            taken.append(token)
            self._prefix.append(token)
            finish = self.finished(rules)
            if finish is not None:
                break
        self._hash.extend(taken)
        return Commit(tuple(taken), finish)


def greedy_twin(sampling: SamplingParams) -> SamplingParams:
    """The same penalties without chance: what a drafter uses when its distributions are not sent."""
    return replace(sampling, temperature=0.0)


def guess_twin(sampling: SamplingParams) -> SamplingParams:
    """What guesses the verifier's own token best: running the race that it will run, with the same keys."""
    return replace(sampling, mode=AcceptanceMode.MATCH)
