"""Asks one device for one text over its OpenAI API, streaming, and keeps the token ids.

`return_token_ids` is an extension that vLLM has too; without it a client sees text only. Measures;
judges nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from sled_cli.demo.prompts import Prompt

READ_SECONDS = 300.0
"""Longest silence of a device before its text counts as failed."""
MAX_EVENT_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Answer:
    """What a device wrote for one prompt, or why it did not."""

    device: str
    prompt: str
    prompt_tokens: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()
    text: str = ""
    finish: str = ""
    """`stop` at an end token, `length` at the limit."""
    verified: bool = True
    seconds: float = 0.0
    error: str = ""
    """A sentence; empty when the text is whole."""

    @property
    def passes_alone(self) -> int:
        """Passes of the target that plain decoding needs for it: one a token, and one that says
        that the text ends."""
        return len(self.tokens) + (self.finish == "stop")


@dataclass(slots=True)
class _Text:
    """A reply as far as it has come."""

    prompt_tokens: tuple[int, ...] = ()
    tokens: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    finish: str = ""
    verified: bool = True
    error: str = ""

    def take(self, event: dict[str, Any]) -> int:
        """Add one event of the stream; returns how many tokens it brought."""
        if "error" in event:
            self.error = str(event["error"].get("message", "an error without a message"))
            return 0
        if event.get("prompt_token_ids"):
            self.prompt_tokens = tuple(event["prompt_token_ids"])
        count = 0
        for choice in event.get("choices", ()):
            ids = choice.get("token_ids") or ()
            self.tokens.extend(ids)
            count += len(ids)
            self.pieces.append(choice["delta"].get("content") or "")
            self.finish = choice.get("finish_reason") or self.finish
            self.verified = self.verified and choice.get("sled", {}).get("verified", True)
        return count


async def ask(
    client: httpx.AsyncClient,
    device: str,
    url: str,
    prompt: Prompt,
    max_tokens: int,
    on_tokens: Callable[[int], None],
) -> Answer:
    """One text, never an exception for what the device does; `on_tokens` hears of every token."""
    started = time.monotonic()
    text = _Text()
    body = {
        "messages": prompt.messages(),
        "temperature": 0,
        "max_tokens": max_tokens,
        "stream": True,
        "return_token_ids": True,
    }
    try:
        async with client.stream(
            "POST", f"{url}/v1/chat/completions", json=body, timeout=READ_SECONDS
        ) as reply:
            if reply.status_code != httpx.codes.OK:
                text.error = _refusal(reply.status_code, await reply.aread())
            else:
                async for event in _events(reply):
                    if count := text.take(event):
                        on_tokens(count)
    except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError) as error:
        text.error = f"{type(error).__name__}: {error}"
    if not text.error and not text.finish:
        text.error = "the stream ended before the text did"
    return Answer(
        device=device,
        prompt=prompt.name,
        prompt_tokens=text.prompt_tokens,
        tokens=tuple(text.tokens),
        text="".join(text.pieces),
        finish=text.finish,
        verified=text.verified,
        seconds=time.monotonic() - started,
        error=text.error,
    )


async def _events(reply: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of a stream of server-sent events."""
    async for line in _lines(reply):
        if line.startswith(b"data:") and (data := line[5:].strip()) != b"[DONE]":
            event = json.loads(data)
            if not isinstance(event, dict):
                raise ValueError("an event is not an object")
            yield event


async def _lines(reply: httpx.Response) -> AsyncIterator[bytes]:
    """Lines as event streams have them. httpx's own would also end at U+2028 and its like, which a
    model may well write."""
    rest = b""
    async for data in reply.aiter_bytes():
        *lines, rest = (rest + data).split(b"\n")
        if any(len(line) > MAX_EVENT_BYTES for line in (*lines, rest)):
            raise ValueError("an event is too long")
        for line in lines:
            yield line
    if rest:
        yield rest


def _refusal(status: int, body: bytes) -> str:
    try:
        return f"HTTP {status}: {json.loads(body)['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"HTTP {status}"
