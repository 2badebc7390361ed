from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from sled_edge.fake_generation import ByteTokenizer, FakeGenerator

MAX_TOKENS = 24
CHAT = {"messages": [{"role": "user", "content": "héllo"}]}
COMPLETION = {"prompt": "héllo"}


def body_of(chat: bool, **more: Any) -> tuple[str, dict[str, Any]]:
    path = "/v1/chat/completions" if chat else "/v1/completions"
    asked = CHAT if chat else COMPLETION
    return path, {**asked, "max_tokens": MAX_TOKENS, "temperature": 0, **more}


@pytest.mark.parametrize("chat", [True, False])
async def test_a_stream_carries_every_token_once_and_the_prompt_first(
    client_of: Callable[..., httpx.AsyncClient], chat: bool
) -> None:
    path, body = body_of(chat, stream=True, return_token_ids=True)
    async with client_of(FakeGenerator()) as client:
        reply = await client.post(path, json=body)
        whole = (await client.post(path, json={**body, "stream": False})).json()
    events = [
        json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")
    ]
    ids = [token for event in events for token in event["choices"][0]["token_ids"]]
    choice = whole["choices"][0]
    assert ids == list("héllo".encode())
    assert choice["token_ids"] == ids
    text = b"".join(ByteTokenizer().piece(token) for token in ids).decode("utf-8", "replace")
    assert (choice["message"]["content"] if chat else choice["text"]) == text
    prompts = [(e if chat else e["choices"][0]).get("prompt_token_ids") for e in events]
    prompt = (whole if chat else choice)["prompt_token_ids"]
    assert prompts == [prompt] + [None] * (len(events) - 1)
    assert len(prompt) == whole["usage"]["prompt_tokens"]


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("stream", [True, False])
async def test_nobody_gets_ids_who_did_not_ask(
    client_of: Callable[..., httpx.AsyncClient], chat: bool, stream: bool
) -> None:
    path, body = body_of(chat, stream=stream)
    async with client_of(FakeGenerator()) as client:
        reply = await client.post(path, json=body)
    assert reply.status_code == 200
    assert "token_ids" not in reply.text
