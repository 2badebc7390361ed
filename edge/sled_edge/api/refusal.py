"""Every way the local API says no, and how each is called in either dialect.

The one place where reasons become statuses. Must not build HTTP messages.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from sled_edge.generation import GenerationError


class Reason(enum.StrEnum):
    """Why; the same word in the reply, the metric label and the log."""

    INVALID_REQUEST = "invalid_request"
    UNSUPPORTED_PARAMETER = "unsupported_parameter"
    INVALID_API_KEY = "invalid_api_key"
    HOST_NOT_ALLOWED = "host_not_allowed"
    ORIGIN_NOT_ALLOWED = "origin_not_allowed"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    MODEL_NOT_FOUND = "model_not_found"
    BODY_TIMEOUT = "body_timeout"
    BODY_TOO_LARGE = "body_too_large"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    INVALID_SAMPLING = "invalid_sampling"
    CLIENT_GONE = "client_gone"
    TOO_MANY_SEQUENCES = "too_many_sequences"
    QUEUE_FULL = "queue_full"
    UNAVAILABLE = "unavailable"
    DRAINING = "draining"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    UNAUTHENTICATED = "unauthenticated"
    TOKENIZER_MISMATCH = "tokenizer_mismatch"
    UNSUPPORTED_REVISION = "unsupported_revision"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Dialects:
    """One reason's HTTP status and type, as OpenAI clients and as TGI clients know them."""

    openai_status: int
    openai_type: str
    tgi_status: int
    tgi_type: str


_BAD = Dialects(400, "invalid_request_error", 422, "validation")
_BUSY = Dialects(429, "rate_limit_error", 429, "overloaded")
_AWAY = Dialects(503, "service_unavailable_error", 503, "generation")


def _refused(status: int) -> Dialects:
    return Dialects(status, "invalid_request_error", status, "validation")


_DIALECTS = {
    Reason.INVALID_REQUEST: _BAD,
    Reason.UNSUPPORTED_PARAMETER: _BAD,
    Reason.CONTEXT_LENGTH_EXCEEDED: _BAD,
    Reason.INVALID_SAMPLING: _BAD,
    Reason.INVALID_API_KEY: Dialects(401, "authentication_error", 401, "unauthorized"),
    Reason.HOST_NOT_ALLOWED: Dialects(403, "permission_error", 403, "forbidden"),
    Reason.ORIGIN_NOT_ALLOWED: Dialects(403, "permission_error", 403, "forbidden"),
    Reason.NOT_FOUND: _refused(404),
    Reason.MODEL_NOT_FOUND: _refused(404),
    Reason.METHOD_NOT_ALLOWED: _refused(405),
    Reason.BODY_TIMEOUT: _refused(408),
    Reason.BODY_TOO_LARGE: _refused(413),
    Reason.CLIENT_GONE: _refused(499),
    Reason.TOO_MANY_SEQUENCES: _BUSY,
    Reason.QUEUE_FULL: _BUSY,
    Reason.UNAVAILABLE: _AWAY,
    Reason.DRAINING: _AWAY,
    Reason.DEADLINE_EXCEEDED: _AWAY,
    Reason.UNAUTHENTICATED: _AWAY,
    Reason.TOKENIZER_MISMATCH: _AWAY,
    Reason.UNSUPPORTED_REVISION: _AWAY,
    Reason.INTERNAL: Dialects(500, "server_error", 424, "generation"),
}

_MAY_RETRY = frozenset(
    (
        Reason.TOO_MANY_SEQUENCES,
        Reason.QUEUE_FULL,
        Reason.UNAVAILABLE,
        Reason.DRAINING,
        Reason.DEADLINE_EXCEEDED,
    )
)
_LEAST_RETRY_SECONDS = 1.0

_WIRE_NAMES = {
    "unknown_model": Reason.MODEL_NOT_FOUND,
    "prompt_too_long": Reason.CONTEXT_LENGTH_EXCEEDED,
    "context_full": Reason.CONTEXT_LENGTH_EXCEEDED,
    "invalid_sampling": Reason.INVALID_SAMPLING,
    "too_many_sequences": Reason.TOO_MANY_SEQUENCES,
    "queue_full": Reason.QUEUE_FULL,
    "unavailable": Reason.UNAVAILABLE,
    "draining": Reason.DRAINING,
    "deadline_exceeded": Reason.DEADLINE_EXCEEDED,
    "unauthenticated": Reason.UNAUTHENTICATED,
    "tokenizer_mismatch": Reason.TOKENIZER_MISMATCH,
    "unsupported_revision": Reason.UNSUPPORTED_REVISION,
}
"""Wire refusals that a client can act on; all others are a bug of the device or the verifier."""


class Refusal(Exception):
    """A request, or the rest of its text, is refused.

    `message` is one sentence for the caller, without prompt text; `param` names the field at fault.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        param: str | None = None,
        retry_after_seconds: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.param = param
        least = _LEAST_RETRY_SECONDS if reason in _MAY_RETRY else 0.0
        self.retry_after_seconds = max(least, retry_after_seconds)

    @property
    def dialects(self) -> Dialects:
        """Status and type in either dialect."""
        return _DIALECTS[self.reason]


def from_generation_error(error: GenerationError) -> Refusal:
    """What the client is told of a generation that could not start or go on."""
    reason = _WIRE_NAMES.get(error.reason, Reason.INTERNAL)
    if reason is Reason.INTERNAL:
        return internal()
    param = "model" if reason is Reason.MODEL_NOT_FOUND else None
    return Refusal(reason, str(error), param=param, retry_after_seconds=error.retry_after_seconds)


def internal() -> Refusal:
    """What the client is told of a failure that is not its own: no internals."""
    return Refusal(Reason.INTERNAL, "The device or its verifier failed; the device's log says how.")
