"""The values that pass between servicer, backend and engine thread. Must not know the wire format
or any engine.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, replace

from sled_protocol.distribution import DraftDistribution
from sled_speculation.sampling import SamplingParams

TOKEN_ARRAY = "I"
"""Type code of token arrays: unsigned, at least 32 bits. Four bytes a token keep soft state small.
"""


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """A sequence to start or resume; ids are inside the vocabulary and the prompt has at least one
    token. `weight` and `adapter` are the tenant's, see `tenants.Tenant`.
    """

    device_id: str
    prompt_tokens: array[int]
    committed_tokens: array[int]
    sampling: SamplingParams
    weight: float = 1.0
    adapter: str = ""
    draft_model: str = ""
    """What drafts for it, as far as it is known; tells whose acceptance is like whose."""


@dataclass(frozen=True, slots=True)
class Admission:
    """A sequence that was admitted. `cached_tokens` were resident already (prefix sharing)."""

    key: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class DraftRequest:
    """One round's proposal. `distributions` is empty (point masses) or as long as `draft_tokens`.

    `confidences` is empty or the drafter's own probability of each draft token.
    `deadline_seconds` None takes the backend's default, which prompt computation extends.
    `prefix_hash` None stands for the sequence as it is: the verifier itself goes on (`run`).
    """

    committed_length: int
    prefix_hash: int | None
    draft_tokens: tuple[int, ...]
    distributions: tuple[DraftDistribution, ...] = ()
    deadline_seconds: float | None = None
    confidences: tuple[float, ...] = ()
    run_tokens: int = 0
    """Output tokens, this round's among them, that may be written before the device is asked again."""
    run_on: bool = False
    """Whatever drafts would bring."""
    ahead: bool = False
    """It was sent before the verdict on the round before it, so its arrival says nothing of the device's pace."""

    def beyond(self, tokens: int) -> DraftRequest:
        """What is left of the draft behind so many of its tokens; the rest of the round is the same."""
        if not tokens:
            return self
        return replace(
            self,
            draft_tokens=self.draft_tokens[tokens:],
            distributions=self.distributions[tokens:],
            confidences=self.confidences[tokens:],
        )


@dataclass(frozen=True, slots=True)
class Load:
    """How busy a backend is."""

    queue_depth: int = 0
    active_sequences: int = 0
    step_tokens: int = 0


@dataclass(frozen=True, slots=True)
class RoundVerdict:
    """The verdict on one draft: `accepted` draft tokens from the first on, then `next_token` (bonus
    or recovered).
    """

    committed_length: int
    accepted: int
    verified: int
    next_token: int
    bonus: bool
    queue_seconds: float
    compute_seconds: float
    max_draft_tokens_hint: int
    load: Load
