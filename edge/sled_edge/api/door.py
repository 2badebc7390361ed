"""Who may come in: the Host and Origin checks, the API key, and the count of every answer.

A page in a browser on the device must not reach the API through a name that resolves to loopback
(DNS rebinding) or by posting across origins. Must not read bodies.
"""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sled_edge.api.error_reply import error_reply, record_refusal
from sled_edge.api.refusal import Reason, Refusal
from sled_edge.api.settings import ApiSettings
from sled_edge.metrics import EdgeMetrics

OPEN_PATHS = frozenset(("/health", "/healthz", "/readyz", "/metrics"))
"""Served whatever host name or key: probes and scrapers call by address; no text is behind them."""
KNOWN_ROUTES = OPEN_PATHS | {
    "/",
    "/generate",
    "/generate_stream",
    "/info",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/models",
}
CLIENT_LEFT = 499


class Door:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, settings: ApiSettings, metrics: EdgeMetrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit or refuse, and count the answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = CLIENT_LEFT

        async def noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._admit(scope, receive, noting_status)
        finally:
            self._metrics.count_request(route_label(scope["path"]), status)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        refusal = None if path in OPEN_PATHS else self._refusal(Headers(scope=scope))
        if refusal is None:
            await self._app(scope, receive, send)
            return
        record_refusal(refusal, route_label(path), self._metrics)
        await error_reply(refusal, path)(scope, receive, send)

    def _refusal(self, headers: Headers) -> Refusal | None:
        allowed = self._settings.allowed_hosts
        if "*" not in allowed:
            if host_name(headers.get("host", "")) not in allowed:
                return Refusal(
                    Reason.HOST_NOT_ALLOWED,
                    f"This API is served to the hosts {', '.join(allowed)} only.",
                )
            origin = headers.get("origin")
            if origin is not None and host_name(urlsplit(origin).netloc) not in allowed:
                return Refusal(
                    Reason.ORIGIN_NOT_ALLOWED, "Pages of other origins may not use this API."
                )
        return self._key_refusal(headers)

    def _key_refusal(self, headers: Headers) -> Refusal | None:
        key = self._settings.api_key
        if key is None:
            return None
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(shown.strip().encode(), key.encode()):
            return None
        return Refusal(
            Reason.INVALID_API_KEY, "Send this device's API key as `Authorization: Bearer KEY`."
        )


def host_name(authority: str) -> str:
    """The host of `host`, `host:port` or `[ipv6]:port`, lower case; IPv6 keeps its brackets."""
    authority = authority.strip().lower()
    if authority.startswith("["):
        return authority[: authority.find("]") + 1]
    return authority.partition(":")[0]


def route_label(path: str) -> str:
    """A path as a metric label from a closed set."""
    if path in KNOWN_ROUTES:
        return path
    return "/v1/models/{id}" if path.startswith("/v1/models/") else "other"
