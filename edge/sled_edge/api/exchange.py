"""A reply that is worked on only while its client is there. Must not know what the reply says."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from starlette.types import Message, Receive, Scope, Send

_log = logging.getLogger(__name__)

Work = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]
"""Sends a whole reply; an exception before its first message becomes an error reply."""

CLEAN_UP_SECONDS = 10.0

_LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}
"""Line ends by Unicode, though not in event streams: clients that split text into lines would cut
an event at them."""

EVENT_STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


class ClientStalled(Exception):
    """The client is connected but has taken nothing for too long."""


class Exchange:
    """ASGI response that runs `work` in one task and cancels it the moment the client is gone.

    A client that takes nothing for `send_seconds` counts as gone.
    """

    def __init__(self, work: Work, send_seconds: float) -> None:
        self._work = work
        self._send_seconds = send_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the work to its end or to the client's."""

        async def bounded_send(message: Message) -> None:
            try:
                async with asyncio.timeout(self._send_seconds):
                    await send(message)
            except TimeoutError as error:
                raise ClientStalled from error

        task = asyncio.create_task(self._work(scope, receive, bounded_send))
        gone = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
            else:
                _log.info("client left before its reply was whole")
        except ClientStalled:
            _log.info("client takes no more of its reply")
        finally:
            await _ended(gone)
            await _ended(task)


class EventStream:
    """Server-sent events over an ASGI `send`; opens with the first event."""

    def __init__(self, send: Send, headers: Mapping[str, str] | None = None) -> None:
        self._send = send
        self._headers = {**EVENT_STREAM_HEADERS, **(headers or {})}
        self._open = False

    @property
    def opened(self) -> bool:
        """True when the status is out, so that errors can only be events."""
        return self._open

    async def event(self, data: Mapping[str, Any]) -> None:
        """Send one JSON event."""
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        await self.line(text.translate(_LINE_ENDS))

    async def line(self, data: str) -> None:
        """Send one event of one line."""
        if not self._open:
            self._open = True
            raw = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in self._headers.items()]
            await self._send({"type": "http.response.start", "status": 200, "headers": raw})
        body = f"data: {data}\n\n".encode()
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def close(self) -> None:
        """End the stream in order."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _ended(task: asyncio.Task[None]) -> None:
    """Cancel a task unless it is done, and let it clean up; what fails then is logged, not lost."""
    if task.done():
        return
    task.cancel()
    await asyncio.wait((task,), timeout=CLEAN_UP_SECONDS)
    if not task.done():
        _log.error("clean-up after a client left takes too long")
    elif not task.cancelled() and (error := task.exception()) is not None:
        _log.warning("clean-up after a client left failed", exc_info=error)
