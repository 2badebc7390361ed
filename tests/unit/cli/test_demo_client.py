from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from sled_cli.demo.client import Answer, ask
from sled_cli.demo.prompts import Prompt
from sled_edge.api import build_app
from sled_edge.fake_generation import ByteTokenizer, FakeGenerator
from sled_edge.metrics import EdgeMetrics

PROMPT = Prompt(name="p", user="héllo wörld", system="be kind")


async def answer_from(transport: httpx.AsyncBaseTransport) -> tuple[Answer, list[int]]:
    counts: list[int] = []
    async with httpx.AsyncClient(transport=transport) as client:
        answer = await ask(client, "d-0", "http://localhost", PROMPT, 64, counts.append)
    return answer, counts


def scripted(*lines: str, status: int = 200) -> httpx.AsyncBaseTransport:
    body = "".join(f"{line}\n\n" for line in lines)
    return httpx.MockTransport(lambda _: httpx.Response(status, text=body))


def event(**fields: Any) -> str:
    return "data: " + json.dumps(fields)


async def test_a_devices_own_api_gives_text_and_ids() -> None:
    app = build_app(FakeGenerator(), ByteTokenizer(), metrics=EdgeMetrics())
    answer, counts = await answer_from(httpx.ASGITransport(app))
    tokenizer = ByteTokenizer()
    prompt = tokenizer.encode(tokenizer.chat_prompt(PROMPT.messages()), special=True)
    assert answer.error == ""
    assert answer.verified
    assert answer.prompt_tokens == tuple(prompt)
    assert b"".join(map(tokenizer.piece, answer.tokens)).decode() == answer.text
    assert sum(counts) == len(answer.tokens) > 0


async def test_text_may_hold_what_unicode_calls_a_line_end() -> None:
    text = "one\x85two\u2028three"
    delta = {"delta": {"content": text}, "token_ids": [1, 2], "finish_reason": "stop"}
    line = "data: " + json.dumps({"choices": [delta]}, ensure_ascii=False)
    answer, _ = await answer_from(scripted(line))
    assert (answer.error, answer.text, answer.tokens) == ("", text, (1, 2))


async def test_unverified_text_is_noticed() -> None:
    app = build_app(
        FakeGenerator(unverified_rounds=frozenset({1})), ByteTokenizer(), metrics=EdgeMetrics()
    )
    answer, _ = await answer_from(httpx.ASGITransport(app))
    assert not answer.verified


DELTA = {"delta": {"content": "x"}, "token_ids": [7], "finish_reason": None}


@pytest.mark.parametrize(
    ("transport", "sentence"),
    [
        (scripted('{"error": {"message": "busy"}}', status=503), "HTTP 503: busy"),
        (scripted("<html>", status=502), "HTTP 502"),
        (scripted(event(choices=[DELTA])), "the stream ended before the text did"),
        (scripted(event(choices=[DELTA]), event(error={"message": "gone"})), "gone"),
        (scripted("data: {"), "JSONDecodeError"),
        (scripted("data: []"), "an event is not an object"),
        (scripted("data: " + "1" * 2_000_000), "an event is too long"),
        (scripted(event(choices=[{}])), "KeyError"),
        (scripted(event(choices=[[]])), "AttributeError"),
        (scripted(event(error="x")), "AttributeError"),
    ],
)
async def test_whatever_goes_wrong_is_a_sentence(
    transport: httpx.AsyncBaseTransport, sentence: str
) -> None:
    answer, _ = await answer_from(transport)
    assert sentence in answer.error


async def test_nobody_there_is_a_sentence() -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    answer, _ = await answer_from(httpx.MockTransport(refuse))
    assert answer.error == "ConnectError: refused"
