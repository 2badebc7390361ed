"""What is refused at the door of the scheduler, in one place. Pure checks; must not change any
state.
"""

from __future__ import annotations

from sled_verifier.engine.base import EngineInfo
from sled_verifier.limits import Limits
from sled_verifier.refusal import Reason, Refusal
from sled_verifier.rounds import DraftRequest, OpenRequest
from sled_verifier.session import Session


def check_open(request: OpenRequest, info: EngineInfo, limits: Limits, sequences: int) -> None:
    """Refuse a sequence that cannot be served; `sequences` are open already.

    Raises:
        Refusal: INVALID_SAMPLING, PROMPT_TOO_LONG, CONTEXT_FULL or TOO_MANY_SEQUENCES.
    """
    if request.sampling.guide is not None and not info.guides:
        raise Refusal(
            Reason.INVALID_SAMPLING,
            f"sampling.guide is set; the engine of this replica, {info.engine}, cannot guide output",
        )
    context = info.context_tokens
    prompt, committed = len(request.prompt_tokens), len(request.committed_tokens)
    if prompt >= context:
        raise Refusal(
            Reason.PROMPT_TOO_LONG, f"the prompt has {prompt} tokens; allowed: {context - 1}"
        )
    if prompt + committed >= context:
        raise Refusal(
            Reason.CONTEXT_FULL,
            f"prompt and output have {prompt + committed} tokens; allowed: {context - 1}",
        )
    if sequences >= limits.max_sequences:
        raise Refusal(
            Reason.TOO_MANY_SEQUENCES,
            f"this replica has {sequences} open sequences, its limit",
            retry_after_ms=2_000,
        )


def check_draft(session: Session, draft: DraftRequest, info: EngineInfo, limits: Limits) -> None:
    """Refuse a round that cannot be run.

    Raises:
        Refusal: DRAFT_TOO_LONG or CONTEXT_FULL.
    """
    draft_tokens = len(draft.draft_tokens)
    if draft_tokens > limits.max_draft_tokens:
        raise Refusal(
            Reason.DRAFT_TOO_LONG,
            f"the draft has {draft_tokens} tokens; allowed: {limits.max_draft_tokens}",
        )
    held = session.told_length
    if held + draft_tokens >= info.context_tokens:
        raise Refusal(
            Reason.CONTEXT_FULL,
            f"{held} tokens and a draft of {draft_tokens} leave no room for output "
            f"in a context of {info.context_tokens}",
        )
