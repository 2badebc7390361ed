"""Going on alone: the rounds that the verifier adds by itself where drafts do not pay. Pure.

A round without a draft brings one token, and its way there and back can take longer than the step. A device therefore allows
some tokens in advance (`Draft.run_tokens`). Each of them is the verdict on a draft of no tokens, so texts, randomness and
books are the same as if the device had asked.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace

from sled_verifier.rounds import DraftRequest, RoundVerdict


def next_round(
    draft: DraftRequest, verdict: RoundVerdict, end_tokens: Container[int]
) -> DraftRequest | None:
    """The round that follows unasked, or None when it is the device's turn: it has allowed no more, drafts pay again, or the
    text may be over.
    """
    brought = verdict.accepted + 1
    left = draft.run_tokens - brought
    if left <= 0 or verdict.next_token in end_tokens:
        return None
    if not draft.run_on and verdict.max_draft_tokens_hint > 0:
        return None
    return replace(
        draft,
        committed_length=draft.committed_length + brought,
        prefix_hash=None,
        draft_tokens=(),
        distributions=(),
        confidences=(),
        run_tokens=left,
    )
