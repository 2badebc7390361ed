"""Refusals as HTTP replies, in the form that the clients of the asked path read.

Must not decide what is refused.
"""

from __future__ import annotations

import logging
import math
from typing import Any

from starlette.responses import JSONResponse

from sled_edge.api.refusal import Refusal
from sled_edge.generation import GenerationError
from sled_edge.log import fields
from sled_edge.metrics import EdgeMetrics

TGI_PATHS = frozenset(("/", "/generate", "/generate_stream", "/info", "/health"))

VERIFIED_HEADER = "x-sled-verified"

_log = logging.getLogger(__name__)


def openai_error(refusal: Refusal) -> dict[str, Any]:
    """`{"error": {message, type, param, code}}`."""
    return {
        "error": {
            "message": refusal.message,
            "type": refusal.dialects.openai_type,
            "param": refusal.param,
            "code": refusal.reason.value,
        }
    }


def tgi_error(refusal: Refusal) -> dict[str, Any]:
    """`{"error": message, "error_type": type}`, and the reason beside them."""
    return {
        "error": refusal.message,
        "error_type": refusal.dialects.tgi_type,
        "reason": refusal.reason.value,
    }


def record_refusal(refusal: Refusal, route: str, metrics: EdgeMetrics) -> None:
    """Count and log a refusal.

    Of a cause, only a `GenerationError`'s message is logged: others may quote the client's text.
    """
    metrics.count_refusal(refusal.reason.value)
    _log.info(
        "request refused",
        extra=fields(
            reason=refusal.reason.value,
            route=route,
            param=refusal.param,
            cause=_cause(refusal.__cause__),
        ),
    )


def error_reply(refusal: Refusal, path: str) -> JSONResponse:
    """The reply to a request for `path` that was refused."""
    tgi = path in TGI_PATHS
    status = refusal.dialects.tgi_status if tgi else refusal.dialects.openai_status
    headers = {}
    if refusal.retry_after_seconds > 0:
        headers["Retry-After"] = str(math.ceil(refusal.retry_after_seconds))
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = tgi_error(refusal) if tgi else openai_error(refusal)
    return JSONResponse(body, status_code=status, headers=headers)


def _cause(error: BaseException | None) -> str | None:
    if isinstance(error, GenerationError):
        return f"{error.reason}: {error}"
    return None if error is None else type(error).__name__
