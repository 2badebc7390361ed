"""Typed refusals: every no of this service has a reason, a sentence and a time to try again. Must
not know gRPC calls.

VerifierError ├── ConfigError      the configuration cannot be used; the process stops └── Refusal
one request cannot be served; the process goes on
"""

from __future__ import annotations

import enum

from sled_protocol.v1 import verifier_pb2 as pb


class Reason(enum.IntEnum):
    """Why a request is refused; numbers are those of `sled.v1.RefusalReason`, whose comments define
    them.
    """

    UNSUPPORTED_REVISION = pb.REFUSAL_REASON_UNSUPPORTED_REVISION
    UNAUTHENTICATED = pb.REFUSAL_REASON_UNAUTHENTICATED
    MALFORMED = pb.REFUSAL_REASON_MALFORMED
    UNKNOWN_MODEL = pb.REFUSAL_REASON_UNKNOWN_MODEL
    TOKENIZER_MISMATCH = pb.REFUSAL_REASON_TOKENIZER_MISMATCH
    INVALID_SAMPLING = pb.REFUSAL_REASON_INVALID_SAMPLING
    PROMPT_TOO_LONG = pb.REFUSAL_REASON_PROMPT_TOO_LONG
    CONTEXT_FULL = pb.REFUSAL_REASON_CONTEXT_FULL
    TOO_MANY_SEQUENCES = pb.REFUSAL_REASON_TOO_MANY_SEQUENCES
    UNKNOWN_SEQUENCE = pb.REFUSAL_REASON_UNKNOWN_SEQUENCE
    STALE_PREFIX = pb.REFUSAL_REASON_STALE_PREFIX
    DRAFT_TOO_LONG = pb.REFUSAL_REASON_DRAFT_TOO_LONG
    QUEUE_FULL = pb.REFUSAL_REASON_QUEUE_FULL
    DEADLINE_EXCEEDED = pb.REFUSAL_REASON_DEADLINE_EXCEEDED
    DRAINING = pb.REFUSAL_REASON_DRAINING
    DUPLICATE_SEQUENCE = pb.REFUSAL_REASON_DUPLICATE_SEQUENCE
    INTERNAL = pb.REFUSAL_REASON_INTERNAL
    ROUND_IN_FLIGHT = pb.REFUSAL_REASON_ROUND_IN_FLIGHT

    @property
    def label(self) -> str:
        """The name as it appears in metrics and logs."""
        return self.name.lower()


class VerifierError(Exception):
    """Root of this package's errors."""


class ConfigError(VerifierError):
    """The configuration cannot be used; the message names the field path and what is allowed."""


class Refusal(VerifierError):
    """One request cannot be served. `message` is one sentence without token text or secrets.

    `retry_after_ms` 0 means that trying the same again is useless.
    """

    def __init__(self, reason: Reason, message: str, retry_after_ms: int = 0) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_after_ms = retry_after_ms
