"""Handlers of the OpenAI API: body to `Ask`, `Ask` to reply. Must not touch text."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from sled_edge.api.ask import ANY_MODEL, Service, model_not_found
from sled_edge.api.body import parse, read_object
from sled_edge.api.exchange import Exchange
from sled_edge.api.openai.forms import Form, fingerprint, model_card
from sled_edge.api.openai.reply import Reply
from sled_edge.api.openai.requests import (
    CHAT_UNSUPPORTED,
    COMPLETION_UNSUPPORTED,
    ChatRequest,
    CompletionRequest,
)
from sled_edge.api.refusal import Reason, Refusal

COMPLETION_MAX_TOKENS = 16
"""Output tokens of a completion that names none, as OpenAI documents."""


class OpenAiRoutes:
    """The handlers, bound to what they serve."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        """What the application mounts."""
        return [
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/completions", self.completion, methods=["POST"]),
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{name:path}", self.model, methods=["GET"]),
        ]

    async def chat(self, request: Request) -> Exchange:
        """POST /v1/chat/completions."""
        document = await read_object(request, self._service.settings)
        CHAT_UNSUPPORTED.check(document)
        body = parse(ChatRequest, document)
        self._check_stream(body)
        prompt = await self._service.encode_chat(
            [{"role": message.role, "content": message.content} for message in body.messages]
        )
        default = self._service.settings.default_max_tokens
        tgi = body.model == ANY_MODEL
        return self._exchange(
            body,
            Reply(
                self._service,
                self._service.ask(prompt, body.wishes(), default),
                self._form(chat=True, role_in_every_chunk=tgi),
                with_usage=body.wants_usage,
                with_token_ids=bool(body.return_token_ids),
                with_done=not tgi,
            ),
        )

    async def completion(self, request: Request) -> Exchange:
        """POST /v1/completions."""
        document = await read_object(request, self._service.settings)
        COMPLETION_UNSUPPORTED.check(document)
        body = parse(CompletionRequest, document)
        self._check_stream(body)
        prompt = await self._prompt(body)
        return self._exchange(
            body,
            Reply(
                self._service,
                self._service.ask(prompt, body.wishes(), COMPLETION_MAX_TOKENS),
                self._form(chat=False),
                prefix=self._service.text_of(body.prompt) if body.echo else "",
                with_usage=body.wants_usage,
                with_token_ids=bool(body.return_token_ids),
            ),
        )

    async def models(self, request: Request) -> JSONResponse:
        """GET /v1/models: the one that is served."""
        return JSONResponse({"object": "list", "data": [model_card(self._service)]})

    async def model(self, request: Request) -> JSONResponse:
        """GET /v1/models/NAME."""
        served = self._service.generator.model_name()
        if request.path_params["name"] != served:
            raise model_not_found(served)
        return JSONResponse(model_card(self._service))

    async def _prompt(self, body: CompletionRequest) -> tuple[int, ...]:
        if isinstance(body.prompt, str):
            return await self._service.encode(body.prompt, "prompt")
        return self._service.check_tokens(body.prompt, "prompt")

    def _form(self, **shape: Any) -> Form:
        model = self._service.generator.model_name()
        return Form(model=model, fingerprint=fingerprint(self._service), **shape)

    def _exchange(self, body: ChatRequest | CompletionRequest, reply: Reply) -> Exchange:
        work = reply.stream if body.streams else reply.whole
        return Exchange(work, self._service.settings.send_seconds)

    def _check_stream(self, body: ChatRequest | CompletionRequest) -> None:
        if body.stream_options is not None and not body.streams:
            raise Refusal(
                Reason.INVALID_REQUEST,
                "stream_options is allowed only with stream set to true.",
                param="stream_options",
            )
