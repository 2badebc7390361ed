"""The acceptance rule: which draft tokens stay, and which token of the target follows. Must not know engines or the wire.

Every mode leaves the target's distribution exactly as it is, whatever the drafts are. Three rules of conduct keep it so, for
everything that decides how many tokens are drafted, sent or verified:

1. In rejection mode a token that was drawn is sent. Dropping it because of what it is (its own low probability) would leave
   the likely ones over-represented. Stopping *after* it, in view of it, is harmless.
2. A verifier that trims a draft decides about token i from what precedes it, never from token i or later ones.
3. A discarded draft's randomness is not used again for another draft length (see `randomness.uniform`, `round_start`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sled_protocol.distribution import DraftDistribution
from sled_speculation.choice import inverse_transform, target_token
from sled_speculation.randomness import Purpose, uniform
from sled_speculation.sampling import AcceptanceMode, SamplingParams
from sled_speculation.transforms import TokenSet, greedy_token, target_probs


class MalformedDraft(ValueError):
    """Draft tokens and their distributions do not fit each other or the vocabulary; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on one draft: the first `accepted` draft tokens stay and `next_token` follows them."""

    accepted: int
    next_token: int
    bonus: bool
    """True when every draft token was accepted, so `next_token` is a bonus; otherwise it is the recovered token."""

    def output(self, draft_tokens: Sequence[int]) -> tuple[int, ...]:
        """The output tokens of the round."""
        return (*draft_tokens[: self.accepted], self.next_token)


def check_draft(
    draft_tokens: Sequence[int],
    draft_distributions: Sequence[DraftDistribution],
    vocab_size: int,
) -> None:
    """Refuse at the door what `verify_draft` could not judge.

    Raises:
        MalformedDraft: a token is outside the vocabulary, the distributions are neither none nor one a token, one of
            them lists ids outside the vocabulary, or a draft token has probability 0 in its own distribution.
    """
    for index, token in enumerate(draft_tokens):
        if not 0 <= token < vocab_size:
            raise MalformedDraft(f"draft token {index} is outside the vocabulary of {vocab_size}")
    if not draft_distributions:
        return
    if len(draft_distributions) != len(draft_tokens):
        raise MalformedDraft(
            f"{len(draft_tokens)} draft tokens came with {len(draft_distributions)} distributions"
        )
    for index, distribution in enumerate(draft_distributions):
        if int(distribution.token_ids[-1]) >= vocab_size:
            raise MalformedDraft(
                f"the distribution of draft token {index} leaves the vocabulary of {vocab_size}"
            )
        if distribution.probability(draft_tokens[index]) == 0:
            raise MalformedDraft(f"draft token {index} is not listed in its own distribution")


def verify_draft(
    logits: NDArray[np.floating[Any]],
    draft_tokens: Sequence[int],
    draft_distributions: Sequence[DraftDistribution],
    params: SamplingParams,
    seen: TokenSet,
    position: int,
) -> Judgement:
    """Judge one draft against the target's logits.

    Args:
        logits: [len(draft_tokens) + 1, vocab]; row i is the target's for the token after the first i draft tokens.
        draft_tokens: may be empty, which asks for one plain token of the target.
        draft_distributions: what each draft token was sampled from; empty = point masses. Only rejection mode looks.
        params: how the target samples.
        seen: prompt + committed tokens; not changed.
        position: number of prompt + committed tokens.

    Raises:
        MalformedDraft: see `check_draft`, or the number of rows is wrong.
        UnusableLogits: a row that was needed has NaN or infinite logits.
    """
    if logits.ndim != 2 or logits.shape[0] != len(draft_tokens) + 1:
        raise MalformedDraft(
            f"{len(draft_tokens)} draft tokens need {len(draft_tokens) + 1} rows of logits, "
            f"not the shape {logits.shape}"
        )
    check_draft(draft_tokens, draft_distributions, logits.shape[1])
    if params.greedy:
        return _judge_greedy(logits, draft_tokens, params, seen)
    before = _own_copy(seen, params)

    def probs_at(index: int) -> NDArray[np.float64]:
        if index:
            before.add(draft_tokens[index - 1])
        return target_probs(logits[index], params, before)

    return judge_draft(
        probs_at, draft_tokens, draft_distributions, params.mode, params.seed, position
    )


def judge_draft(
    probs_at: Callable[[int], NDArray[np.float64]],
    draft_tokens: Sequence[int],
    draft_distributions: Sequence[DraftDistribution],
    mode: AcceptanceMode,
    seed: int,
    position: int,
) -> Judgement:
    """The sampled verdict, given the target's distributions.

    `probs_at(i)` is the target's distribution [vocab] after the first i draft tokens; it is asked for i = 0, 1, … in order,
    each once, and not beyond the first rejection.
    """
    for index, token in enumerate(draft_tokens):
        probs = probs_at(index)
        if mode is AcceptanceMode.MATCH:
            chosen = target_token(probs, seed, position + index)
        else:
            draft = draft_distributions[index] if draft_distributions else None
            chosen = judge_token(probs, token, draft, seed, position + index)
        if chosen != token:
            return Judgement(index, chosen, bonus=False)
    count = len(draft_tokens)
    return Judgement(count, target_token(probs_at(count), seed, position + count), bonus=True)


def _judge_greedy(
    logits: NDArray[np.floating[Any]],
    draft_tokens: Sequence[int],
    params: SamplingParams,
    seen: TokenSet,
) -> Judgement:
    # Without a penalty nobody looks at the set, and keeping it up to date would be most of the work here.
    penalty = params.repetition_penalty != 1
    before = _own_copy(seen, params)
    for index, token in enumerate(draft_tokens):
        chosen = greedy_token(logits[index], params, before)
        if chosen != token:
            return Judgement(index, chosen, bonus=False)
        if penalty:
            before.add(token)
    count = len(draft_tokens)
    return Judgement(count, greedy_token(logits[count], params, before), bonus=True)


def _own_copy(seen: TokenSet, params: SamplingParams) -> TokenSet:
    """A set to extend; empty without a penalty, because then nobody looks and a long sequence's set is dear to copy."""
    return seen.copy() if params.repetition_penalty != 1 else TokenSet()


def judge_token(
    probs: NDArray[np.float64],
    token: int,
    draft: DraftDistribution | None,
    seed: int,
    position: int,
) -> int:
    """Rejection mode for one draft token: the token itself when it is accepted, otherwise the recovered one.

    Accepted with probability min(1, target/draft); recovered from the residual max(0, target - draft), renormalised
    (Leviathan et al. 2023, section 2.3; Chen et al. 2023, algorithm 2). A missing `draft` is a point mass on `token`:
    accepted with the target's probability, recovered from the target without that token. The recovered token always
    differs from the draft token, because a rejected token has no residual.
    """
    draft_prob = 1.0 if draft is None else draft.probability(token)
    target_prob = float(probs[token])
    if uniform(seed, position, Purpose.ACCEPT) * draft_prob < target_prob:
        return token
    residual = probs.copy()
    if draft is not None:
        residual[draft.token_ids] -= draft.probs()
        np.maximum(residual, 0, out=residual)
    residual[token] = 0
    if not residual.any():
        # Only rounding gets here: target and draft are equal, so there is nothing to correct.
        return token
    return inverse_transform(residual, uniform(seed, position, Purpose.RECOVER))
