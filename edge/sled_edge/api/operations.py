"""What probes and scrapers ask. Must not reveal text, and must not wait for anything."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from sled_edge.api.ask import Service
from sled_edge.api.refusal import Reason


class OperationsRoutes:
    """The handlers, bound to what they watch."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        """What the application mounts."""
        return [
            Route("/healthz", self.alive, methods=["GET"]),
            Route("/readyz", self.ready, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
        ]

    async def alive(self, request: Request) -> Response:
        """GET /healthz: 200 while the process answers at all."""
        return PlainTextResponse("ok\n")

    async def ready(self, request: Request) -> Response:
        """GET /readyz: 200 when a request would be served now, else 503 with the reason."""
        if self._service.generator.ready():
            return JSONResponse({"ready": True})
        return JSONResponse(
            {
                "ready": False,
                "reason": Reason.UNAVAILABLE.value,
                "message": "No verifier can be reached, and unverified text is not allowed.",
            },
            status_code=503,
        )

    async def metrics(self, request: Request) -> Response:
        """GET /metrics in Prometheus' text format."""
        text, content_type = self._service.metrics.exposition()
        return Response(text, headers={"content-type": content_type})
