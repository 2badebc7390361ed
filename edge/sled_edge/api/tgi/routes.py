"""Handlers of the TGI API: body to `Ask`, `Ask` to reply. Must not touch text."""

from __future__ import annotations

from dataclasses import replace
from importlib import metadata

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sled_edge.api.ask import Service
from sled_edge.api.body import parse, read_object
from sled_edge.api.exchange import Exchange, Work
from sled_edge.api.tgi.reply import Reply
from sled_edge.api.tgi.requests import (
    DEFAULT_MAX_NEW_TOKENS,
    MAX_STOP_SEQUENCES,
    PARAMETERS_UNSUPPORTED,
    GenerateRequest,
)

DISTRIBUTION = "sled-inference"


class TgiRoutes:
    """The handlers, bound to what they serve."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        """What the application mounts."""
        return [
            Route("/", self.either, methods=["POST"]),
            Route("/generate", self.generate, methods=["POST"]),
            Route("/generate_stream", self.generate_stream, methods=["POST"]),
            Route("/info", self.info, methods=["GET"]),
            Route("/health", self.health, methods=["GET"]),
        ]

    async def either(self, request: Request) -> Exchange:
        """POST /: streams when `stream` is true, otherwise a list with one body.

        Here, unlike elsewhere, TGI gives the prompt back unless told not to.
        """
        body = await self._body(request)
        reply = await self._reply(body, return_full_text=True)
        if body.stream:
            return self._exchange(reply.stream)
        return self._exchange(replace(reply, in_list=True).whole)

    async def generate(self, request: Request) -> Exchange:
        """POST /generate."""
        reply = await self._reply(await self._body(request))
        return self._exchange(reply.whole)

    async def generate_stream(self, request: Request) -> Exchange:
        """POST /generate_stream."""
        reply = await self._reply(await self._body(request))
        return self._exchange(reply.stream)

    async def info(self, request: Request) -> JSONResponse:
        """GET /info: what is served, and within which bounds."""
        context = self._service.generator.context_tokens()
        return JSONResponse(
            {
                "model_id": self._service.generator.model_name(),
                "model_sha": None,
                "model_pipeline_tag": "text-generation",
                "max_concurrent_requests": None,
                "max_best_of": 1,
                "max_stop_sequences": MAX_STOP_SEQUENCES,
                "max_input_tokens": max(0, context - 1),
                "max_total_tokens": context,
                "max_client_batch_size": 1,
                "router": "sled-edge",
                "version": metadata.version(DISTRIBUTION),
                "sha": None,
                "docker_label": None,
            }
        )

    async def health(self, request: Request) -> Response:
        """GET /health: 200 when a request would be served now."""
        if self._service.generator.ready():
            return Response()
        body = {"error": "no verifier can be reached", "error_type": "healthcheck"}
        return JSONResponse(body, status_code=503)

    async def _body(self, request: Request) -> GenerateRequest:
        document = await read_object(request, self._service.settings)
        parameters = document.get("parameters")
        if isinstance(parameters, dict):
            PARAMETERS_UNSUPPORTED.check(parameters, "parameters.")
        return parse(GenerateRequest, document)

    async def _reply(self, body: GenerateRequest, *, return_full_text: bool = False) -> Reply:
        options = body.options
        if options.return_full_text is not None:
            return_full_text = options.return_full_text
        prompt = await self._service.encode(body.inputs, "inputs")
        if options.truncate is not None:
            prompt = prompt[-options.truncate :]
        return Reply(
            self._service,
            self._service.ask(prompt, options.wishes(), DEFAULT_MAX_NEW_TOKENS),
            prefix=body.inputs if return_full_text else "",
            with_details=bool(options.details),
        )

    def _exchange(self, work: Work) -> Exchange:
        return Exchange(work, self._service.settings.send_seconds)
