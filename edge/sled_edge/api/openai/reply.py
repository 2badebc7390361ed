"""A run as OpenAI's reply, whole or streamed. Must not parse requests."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from sled_edge.api.ask import Ask, Service
from sled_edge.api.error_reply import VERIFIED_HEADER, openai_error, record_refusal
from sled_edge.api.exchange import EventStream
from sled_edge.api.openai.forms import Form
from sled_edge.api.openai.token_ids import TokenIds
from sled_edge.api.refusal import Refusal, internal
from sled_edge.api.run import Run, Step

DONE = "[DONE]"


@dataclass(frozen=True, slots=True)
class Reply:
    """Runs an ask and sends what comes of it.

    `prefix` is text that is given before the output. Refusals before the first round leave nothing
    sent and reach the caller; later ones become the stream's last event.
    """

    service: Service
    ask: Ask
    form: Form
    prefix: str = ""
    with_usage: bool = False
    with_token_ids: bool = False
    with_done: bool = True

    async def whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send one JSON body when the text is complete."""
        run = Run(self.service, self.ask)
        text, ids = self.prefix, TokenIds(run, chat=self.form.chat)
        async with aclosing(run.steps()) as steps:
            async for step in steps:
                text += step.text
                ids.add(step)
        body = self.form.whole(run, text)
        if self.with_token_ids:
            ids.put_into(body)
        reply = JSONResponse(body, headers={VERIFIED_HEADER: run.verified.value})
        await reply(scope, receive, send)

    async def stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send an event per round."""
        run = Run(self.service, self.ask)
        ids = TokenIds(run, chat=self.form.chat)
        events = EventStream(send)
        try:
            async with aclosing(run.steps()) as steps:
                async for step in steps:
                    await self._step(events, step, ids)
            await self._end(events, run, ids)
        except Refusal as refusal:
            if not events.opened:
                raise
            record_refusal(refusal, scope["path"], self.service.metrics)
            await events.event(openai_error(refusal))
        except Exception:
            if events.opened:
                await events.event(openai_error(internal()))
            raise
        await events.close()

    async def _step(self, events: EventStream, step: Step, ids: TokenIds) -> None:
        if not events.opened and (self.form.chat or self.prefix):
            await events.event(self._chunk(self.prefix, ids, first=True))
        ids.add(step)
        if step.text:
            await events.event(self._chunk(step.text, ids, first=False, verified=step.verified))

    async def _end(self, events: EventStream, run: Run, ids: TokenIds) -> None:
        last = [self.form.end_chunk(run)]
        if self.with_token_ids:
            ids.put_into(last[0])
        if self.with_usage:
            last[0]["usage"] = None
            last.append(self.form.usage_chunk(run))
        last[-1]["metrics"] = {"speculative_decoding": run.report.as_json()}
        for event in last:
            await events.event(event)
        if self.with_done:
            await events.line(DONE)

    def _chunk(
        self, text: str, ids: TokenIds, *, first: bool, verified: bool = True
    ) -> dict[str, Any]:
        chunk = self.form.chunk(text, first=first, verified=verified)
        if self.with_token_ids:
            ids.put_into(chunk)
        if self.with_usage:
            chunk["usage"] = None
        return chunk
