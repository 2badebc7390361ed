from __future__ import annotations

import asyncio
import json

import pytest
from starlette.types import Message, Receive, Scope, Send

from sled_edge.api.exchange import EventStream, Exchange

SCOPE: Scope = {"type": "http", "path": "/"}


class Peer:
    """The server's side of ASGI: what was sent, and a client that leaves when told to."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.leave = asyncio.Event()

    async def receive(self) -> Message:
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)


class Task:
    """Work that opens a stream, then waits for ever; notes how it ended."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.cleaned = False

    async def work(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await EventStream(send).event({"n": 1})
            self.began.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # clean-up may wait: the cancellation comes once
            self.cleaned = True


async def test_work_is_cancelled_and_cleaned_up_when_the_client_leaves() -> None:
    peer, task = Peer(), Task()
    reply = asyncio.create_task(Exchange(task.work, 10)(SCOPE, peer.receive, peer.send))
    await task.began.wait()
    peer.leave.set()
    await asyncio.wait_for(reply, 10)
    assert task.cleaned
    assert [m["type"] for m in peer.sent] == ["http.response.start", "http.response.body"]


async def test_a_client_that_takes_nothing_counts_as_gone() -> None:
    peer, task = Peer(), Task()

    async def stuck(message: Message) -> None:
        await asyncio.Event().wait()

    await asyncio.wait_for(Exchange(task.work, 0.01)(SCOPE, peer.receive, stuck), 10)
    assert task.cleaned
    assert not task.began.is_set()


async def test_what_the_work_raises_reaches_the_caller() -> None:
    peer = Peer()

    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise LookupError("x")

    with pytest.raises(LookupError):
        await Exchange(fails, 10)(SCOPE, peer.receive, peer.send)


async def test_a_cancelled_server_cancels_the_work() -> None:
    peer, task = Peer(), Task()
    reply = asyncio.create_task(Exchange(task.work, 10)(SCOPE, peer.receive, peer.send))
    await task.began.wait()
    reply.cancel()
    await asyncio.wait((reply,))
    assert reply.cancelled()
    assert task.cleaned


async def test_clean_up_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    peer = Peer()
    began = asyncio.Event()

    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            raise LookupError("x")

    reply = asyncio.create_task(Exchange(work, 10)(SCOPE, peer.receive, peer.send))
    await began.wait()
    peer.leave.set()
    await reply
    assert "clean-up after a client left failed" in caplog.text


async def test_an_event_stream_opens_with_its_first_event_and_keeps_text_as_utf8() -> None:
    peer = Peer()
    stream = EventStream(peer.send, {"x-more": "1"})
    assert not stream.opened
    await stream.event({"text": "日\n\u2028"})
    assert stream.opened
    await stream.close()
    start, body, end = peer.sent
    headers: dict[bytes, bytes] = dict(start["headers"])
    assert headers[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert headers[b"x-more"] == b"1"
    assert body["body"] == 'data: {"text":"日\\n\\u2028"}\n\n'.encode()
    assert not end["more_body"]


async def test_an_event_is_one_line_by_anybody_s_count() -> None:
    peer = Peer()
    text = "a\nb\x85c\u2028d\u2029é"
    await EventStream(peer.send).event({"text": text})
    body = peer.sent[1]["body"].decode()
    assert len(body.rstrip("\n").splitlines()) == 1
    assert "é" in body
    assert json.loads(body.removeprefix("data: "))["text"] == text
