"""Wires the local API together. Must not hold policy of its own."""

from __future__ import annotations

import time

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from sled_edge.api.ask import Service
from sled_edge.api.door import Door, route_label
from sled_edge.api.error_reply import error_reply, record_refusal
from sled_edge.api.openai.routes import OpenAiRoutes
from sled_edge.api.operations import OperationsRoutes
from sled_edge.api.refusal import Reason, Refusal, internal
from sled_edge.api.settings import LOOPBACK_HOSTS, ApiSettings
from sled_edge.api.tgi.routes import TgiRoutes
from sled_edge.generation import TokenGenerator, Tokenizer
from sled_edge.metrics import EdgeMetrics


def build_app(
    generator: TokenGenerator,
    tokenizer: Tokenizer,
    *,
    metrics: EdgeMetrics,
    max_body_bytes: int = 1_000_000,
    default_max_tokens: int = 1024,
    api_key: str | None = None,
    allowed_hosts: tuple[str, ...] = LOOPBACK_HOSTS,
    request_seconds: float = 600.0,
    body_seconds: float = 30.0,
    send_seconds: float = 30.0,
) -> Starlette:
    """The device's HTTP API as an ASGI application; settings as in `ApiSettings`.

    Raises:
        InvalidSettings: a setting is outside its range.
    """
    settings = ApiSettings(
        max_body_bytes=max_body_bytes,
        default_max_tokens=default_max_tokens,
        api_key=api_key,
        allowed_hosts=allowed_hosts,
        request_seconds=request_seconds,
        body_seconds=body_seconds,
        send_seconds=send_seconds,
    )
    service = Service(generator, tokenizer, metrics, settings, int(time.time()))
    errors = _Errors(metrics)
    return Starlette(
        routes=[
            *OpenAiRoutes(service).routes(),
            *TgiRoutes(service).routes(),
            *OperationsRoutes(service).routes(),
        ],
        middleware=[Middleware(Door, settings=settings, metrics=metrics)],
        exception_handlers={
            Refusal: errors.refusal,
            HTTPException: errors.http,
            Exception: errors.unexpected,
        },
    )


class _Errors:
    """Exceptions to replies."""

    def __init__(self, metrics: EdgeMetrics) -> None:
        self._metrics = metrics

    async def refusal(self, request: Request, error: Exception) -> Response:
        """A typed refusal."""
        if not isinstance(error, Refusal):
            raise error
        path = request.url.path
        record_refusal(error, route_label(path), self._metrics)
        return error_reply(error, path)

    async def http(self, request: Request, error: Exception) -> Response:
        """What the router itself refuses."""
        if not isinstance(error, HTTPException):
            raise error
        return await self.refusal(request, _router_refusal(request, error.status_code))

    async def unexpected(self, request: Request, error: Exception) -> Response:
        """A bug: the server logs it, the client hears nothing of it."""
        return await self.refusal(request, internal())


def _router_refusal(request: Request, status: int) -> Refusal:
    if status == 405:
        message = f"{request.method} is not allowed here."
        return Refusal(Reason.METHOD_NOT_ALLOWED, message)
    return Refusal(Reason.NOT_FOUND, "There is nothing at this path.")
