"""OpenAI's JSON shapes for chats and completions, whole and in chunks. Must not run anything."""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from sled_edge.api.ask import Service
from sled_edge.api.run import Finish, Run, Verified

_FINISH_REASONS = {
    Finish.END_TOKEN: "stop",
    Finish.STOP_STRING: "stop",
    Finish.LENGTH: "length",
    Finish.CONTEXT_FULL: "length",
}
UNVERIFIED = {"verified": False}
"""Marks text that the draft model alone wrote."""


@dataclass(frozen=True, slots=True)
class Form:
    """The shape of one reply.

    `role_in_every_chunk` is how TGI writes chat chunks; OpenAI says the role once.
    """

    chat: bool
    model: str
    fingerprint: str
    role_in_every_chunk: bool = False
    unique: str = field(default_factory=lambda: secrets.token_hex(16))
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, run: Run, text: str) -> dict[str, Any]:
        """The body of a reply that is not streamed."""
        choice: dict[str, Any] = {
            "index": 0,
            "logprobs": None,
            "finish_reason": finish_reason(run.finish),
        }
        if self.chat:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            choice["text"] = text
        choice.update(_mark(run))
        return {
            **self._envelope("chat.completion" if self.chat else "text_completion"),
            "choices": [choice],
            "usage": usage(run),
            "metrics": {"speculative_decoding": run.report.as_json()},
        }

    def chunk(self, text: str, *, first: bool, verified: bool = True) -> dict[str, Any]:
        """One event of a stream; `first` is before any output."""
        choice = self._chunk_choice(text, first)
        if not verified:
            choice["sled"] = UNVERIFIED
        return {**self._chunk_envelope(), "choices": [choice]}

    def end_chunk(self, run: Run) -> dict[str, Any]:
        """The event that says how a stream ended; it has no text."""
        choice = self._chunk_choice(None, first=False)
        choice["finish_reason"] = finish_reason(run.finish)
        choice.update(_mark(run))
        return {**self._chunk_envelope(), "choices": [choice]}

    def usage_chunk(self, run: Run) -> dict[str, Any]:
        """The last event of a stream whose client asked for usage."""
        return {**self._chunk_envelope(), "choices": [], "usage": usage(run)}

    def _chunk_choice(self, text: str | None, first: bool) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": None}
        if self.chat:
            choice["delta"] = self._delta(text, first)
        else:
            choice["text"] = text or ""
        return choice

    def _chunk_envelope(self) -> dict[str, Any]:
        return self._envelope("chat.completion.chunk" if self.chat else "text_completion")

    def _delta(self, text: str | None, first: bool) -> dict[str, Any]:
        delta: dict[str, Any] = {}
        if first or self.role_in_every_chunk:
            delta["role"] = "assistant"
        if self.role_in_every_chunk:
            delta["tool_calls"] = None
        if text is not None:
            delta["content"] = text
        return delta

    def _envelope(self, name: str) -> dict[str, Any]:
        return {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.unique}",
            "object": name,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


def _mark(run: Run) -> dict[str, Any]:
    if run.verified is Verified.TRUE:
        return {}
    return {"sled": {**UNVERIFIED, "unverified_tokens": run.unverified_tokens}}


def finish_reason(finish: Finish | None) -> str | None:
    """OpenAI's word; None while the text goes on."""
    return None if finish is None else _FINISH_REASONS[finish]


def usage(run: Run) -> dict[str, int]:
    """Tokens of a run; an end token is not counted."""
    return {
        "prompt_tokens": run.prompt_tokens,
        "completion_tokens": run.completion_tokens,
        "total_tokens": run.prompt_tokens + run.completion_tokens,
    }


def fingerprint(service: Service) -> str:
    """Changes when the target's name or its vocabulary does."""
    name = service.generator.model_name().encode("utf-8")
    return "fp_" + hashlib.sha256(service.tokenizer.fingerprint + name).hexdigest()[:16]


def model_card(service: Service) -> dict[str, Any]:
    """An entry of GET /v1/models."""
    return {
        "id": service.generator.model_name(),
        "object": "model",
        "created": service.started_unix_seconds,
        "owned_by": "sled",
        "max_model_len": service.generator.context_tokens(),
    }
