"""A run as TGI's reply, whole or one event per token. Must not parse requests."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from sled_edge.api.ask import Ask, Service
from sled_edge.api.error_reply import VERIFIED_HEADER, record_refusal, tgi_error
from sled_edge.api.exchange import EventStream
from sled_edge.api.refusal import Refusal, internal
from sled_edge.api.run import Finish, Run, Step
from sled_edge.api.tgi import forms


@dataclass(frozen=True, slots=True)
class Reply:
    """Runs an ask and sends what comes of it; refusals as in the OpenAI reply.

    `prefix` is put before the generated text; `in_list` is how `POST /` wraps its body.
    """

    service: Service
    ask: Ask
    prefix: str = ""
    with_details: bool = False
    in_list: bool = False

    async def whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send one JSON body when the text is complete."""
        run = Run(self.service, self.ask)
        tokens: list[dict[str, Any]] = []
        async with aclosing(run.steps()) as steps:
            async for step in steps:
                tokens += [token for token, _ in self._tokens(step)]
        text = self.prefix + "".join(token["text"] for token in tokens)
        body = forms.whole(run, text, tokens if self.with_details else None)
        headers = {VERIFIED_HEADER: run.verified.value}
        await JSONResponse([body] if self.in_list else body, headers=headers)(scope, receive, send)

    async def stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send an event per token; the last has the whole text."""
        events = EventStream(send)
        try:
            await self._stream(events)
        except Refusal as refusal:
            if not events.opened:
                raise
            record_refusal(refusal, scope["path"], self.service.metrics)
            await events.event(tgi_error(refusal))
        except Exception:
            if events.opened:
                await events.event(tgi_error(internal()))
            raise
        await events.close()

    async def _stream(self, events: EventStream) -> None:
        run = Run(self.service, self.ask)
        text = self.prefix
        index = 0
        async with aclosing(run.steps()) as steps:
            async for step in steps:
                tokens = self._tokens(step)
                for place, (token, verified) in enumerate(tokens):
                    index += 1
                    text += token["text"]
                    event = forms.event(index, token, verified=verified)
                    if step.finish is not None and place == len(tokens) - 1:
                        event["generated_text"] = text
                        event["details"] = forms.stream_details(run) if self.with_details else None
                    await events.event(event)

    def _tokens(self, step: Step) -> list[tuple[dict[str, Any], bool]]:
        """A step's tokens, and whether each is verified; a last step has at least one."""
        tokens = [(forms.token(part.token, part.text), part.verified) for part in step.parts]
        if step.finish is None:
            return tokens
        if step.finish is Finish.END_TOKEN or not tokens:
            ending = forms.ending(self.service.tokenizer.end_tokens[0], step.rest)
            return [*tokens, (ending, step.verified or not step.rest)]
        last, verified = tokens[-1]
        tokens[-1] = (forms.token(last["id"], last["text"] + step.rest), verified and step.verified)
        return tokens
