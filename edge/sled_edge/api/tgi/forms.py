"""TGI's JSON shapes; log-probabilities are null as verdicts carry none. Must not run anything."""

from __future__ import annotations

from typing import Any

from sled_edge.api.run import Finish, Run, Verified

UNVERIFIED = {"verified": False}
"""Marks text that the draft model alone wrote."""

_FINISH_REASONS = {
    Finish.END_TOKEN: "eos_token",
    Finish.STOP_STRING: "stop_sequence",
    Finish.LENGTH: "length",
    Finish.CONTEXT_FULL: "length",
}


def token(token_id: int, text: str) -> dict[str, Any]:
    """One output token, with the text that is certain by it."""
    return {"id": token_id, "text": text, "logprob": None, "special": False}


def ending(token_id: int, text: str) -> dict[str, Any]:
    """The end token: special, so that clients leave it out, unless held-back text comes with it."""
    return {"id": token_id, "text": text, "logprob": None, "special": not text}


def stream_details(run: Run) -> dict[str, Any]:
    """How a text ended."""
    sampling = run.ask.request.sampling
    return {
        "finish_reason": None if run.finish is None else _FINISH_REASONS[run.finish],
        "generated_tokens": run.completion_tokens,
        "seed": None if sampling.greedy else sampling.seed,
        "input_length": run.prompt_tokens,
    }


def details(run: Run, tokens: list[dict[str, Any]]) -> dict[str, Any]:
    """As `stream_details`, with all tokens."""
    return {**stream_details(run), "prefill": [], "tokens": tokens}


def whole(run: Run, text: str, tokens: list[dict[str, Any]] | None) -> dict[str, Any]:
    """The body of a reply that is not streamed; `tokens` None leaves the details out."""
    body: dict[str, Any] = {"generated_text": text}
    if tokens is not None:
        body["details"] = details(run, tokens)
        body["metrics"] = {"speculative_decoding": run.report.as_json()}
    if run.verified is not Verified.TRUE:
        body["sled"] = {**UNVERIFIED, "unverified_tokens": run.unverified_tokens}
    return body


def event(index: int, one: dict[str, Any], *, verified: bool) -> dict[str, Any]:
    """One event of a stream, without the text and details that only the last one has."""
    body: dict[str, Any] = {
        "index": index,
        "token": one,
        "generated_text": None,
        "details": None,
    }
    if not verified:
        body["sled"] = UNVERIFIED
    return body
