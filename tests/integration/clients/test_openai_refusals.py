"""The official `openai` client, unmodified, against a real server: what is refused, and how the client says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest

from sled_edge.fake_generation import Failure, FakeGenerator, say
from sled_edge.generation import GenerationError
from sled_testkit.openai_client import HELLO, client_for, client_of, joined

Call = Callable[[openai.AsyncOpenAI], Any]


def chat(**body: Any) -> Call:
    return lambda client: client.chat.completions.create(
        model="fake", messages=HELLO, extra_body=body
    )


@pytest.mark.parametrize(
    ("call", "param", "code"),
    [
        (chat(temperature=2.5), "temperature", "invalid_request"),
        (chat(temperature=0.001), "temperature", "invalid_sampling"),
        (chat(temperature="hot"), "temperature", "invalid_request"),
        (chat(top_k=10**9), "top_k", "invalid_request"),
        (chat(max_tokens=0), "max_tokens", "invalid_request"),
        (chat(max_tokens=5000), "max_tokens", "context_length_exceeded"),
        (chat(max_completion_tokens=5000), "max_completion_tokens", "context_length_exceeded"),
        (chat(stop=["a"] * 5), "stop", "invalid_request"),
        (chat(n=2), "n", "unsupported_parameter"),
        (chat(logprobs=True), "logprobs", "unsupported_parameter"),
        (chat(presence_penalty=0.5), "presence_penalty", "unsupported_parameter"),
        (chat(tools=[{"type": "function"}]), "tools", "unsupported_parameter"),
        (chat(response_format={"type": "json_object"}), "response_format", "unsupported_parameter"),
        (chat(messages=[]), "messages", "invalid_request"),
        (
            chat(messages=[{"role": "tool", "content": "x"}]),
            "messages[0].role",
            "invalid_request",
        ),
        (
            chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
            "messages[0].content",
            "invalid_request",
        ),
        (chat(stream_options={"include_usage": True}), "stream_options", "invalid_request"),
        (
            lambda client: client.completions.create(model="fake", prompt=[5, 100_000]),
            "prompt",
            "invalid_request",
        ),
        (
            lambda client: client.completions.create(model="fake", prompt=["a", "b"]),
            "prompt",
            "invalid_request",
        ),
        (lambda client: client.completions.create(model="fake", prompt=""), "prompt", None),
        (
            lambda client: client.completions.create(model="fake", prompt="a" * 3000),
            "prompt",
            "context_length_exceeded",
        ),
        (
            lambda client: client.completions.create(model="fake", prompt="a", logprobs=0),
            "logprobs",
            "unsupported_parameter",
        ),
    ],
)
async def test_bad_requests_name_the_field(
    serve: Any, call: Call, param: str, code: str | None
) -> None:
    generator = FakeGenerator()
    async with client_for(serve, generator) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await call(client)
    assert caught.value.param == param
    assert caught.value.code == (code or "invalid_request")
    assert caught.value.type == "invalid_request_error"
    assert generator.requests == []


async def test_harmless_and_unknown_fields_are_taken(serve: Any) -> None:
    async with client_for(serve, FakeGenerator(say("x"))) as client:
        await chat(
            n=1,
            logprobs=False,
            presence_penalty=0,
            frequency_penalty=0.0,
            logit_bias={},
            tools=[],
            tool_choice="auto",
            response_format={"type": "text"},
            user="u",
            metadata={"a": "b"},
            store=False,
            no_such_field=1,
            stop=None,
        )(client)


@pytest.mark.parametrize(
    ("error", "kind", "code", "retry_after"),
    [
        (GenerationError("unknown_model", "no"), openai.NotFoundError, "model_not_found", None),
        (GenerationError("queue_full", "full", 2.5), openai.RateLimitError, "queue_full", "3"),
        (
            GenerationError("too_many_sequences", "full"),
            openai.RateLimitError,
            "too_many_sequences",
            "1",
        ),
        (GenerationError("unavailable", "away"), openai.InternalServerError, "unavailable", "1"),
        (GenerationError("draining", "moving", 7), openai.InternalServerError, "draining", "7"),
        (
            GenerationError("context_full", "full"),
            openai.BadRequestError,
            "context_length_exceeded",
            None,
        ),
        (
            GenerationError("stale_prefix", "SECRET"),
            openai.InternalServerError,
            "internal",
            None,
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_refusals_of_the_verifier_become_the_client_s_own_errors(
    serve: Any,
    error: GenerationError,
    kind: type[openai.APIStatusError],
    code: str,
    retry_after: str | None,
    stream: bool,
) -> None:
    async with client_for(serve, FakeGenerator(failure=Failure(error))) as client:
        with pytest.raises(kind) as caught:
            await client.chat.completions.create(model="fake", messages=HELLO, stream=stream)
    assert caught.value.code == code
    assert caught.value.response.headers.get("retry-after") == retry_after
    assert "SECRET" not in caught.value.message


async def test_an_unknown_model_is_not_found(serve: Any) -> None:
    async with client_for(serve, FakeGenerator()) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model="other", messages=HELLO)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"


async def test_a_refusal_in_mid_stream_is_the_stream_s_last_event(serve: Any) -> None:
    failure = Failure(GenerationError("unavailable", "the verifier is away"), after_rounds=1)
    generator = FakeGenerator(say("abcdefgh"), failure=failure)
    async with client_for(serve, generator) as client:
        stream = await client.chat.completions.create(model="fake", messages=HELLO, stream=True)
        with pytest.raises(openai.APIError, match="the verifier is away") as caught:
            assert await joined(stream) == "abcd"
    assert caught.value.code == "unavailable"


async def test_too_many_at_once_are_refused_with_a_time_to_retry(serve: Any) -> None:
    generator = FakeGenerator(say("abcdefgh"), max_sequences=1, hold_after_rounds=1)
    async with client_for(serve, generator) as client:
        stream = await client.chat.completions.create(model="fake", messages=HELLO, stream=True)
        await anext(aiter(stream))
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(model="fake", messages=HELLO)
        assert caught.value.response.headers["retry-after"] == "1"
        generator.release.set()
        assert await joined(stream) == "abcdefgh"


async def test_the_api_key_is_asked_for(serve: Any) -> None:
    served = await serve(FakeGenerator(say("x")), api_key="right")
    async with client_of(served, api_key="wrong") as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.models.list()
    assert caught.value.code == "invalid_api_key"
    async with client_of(served, api_key="right") as client:
        assert [model.id async for model in client.models.list()] == ["fake"]


async def test_other_host_names_and_origins_are_refused(serve: Any) -> None:
    served = await serve(FakeGenerator(say("x")))
    for header in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        async with client_of(served, default_headers=header) as client:
            with pytest.raises(openai.PermissionDeniedError):
                await client.models.list()
    async with client_of(served, default_headers={"Origin": "http://localhost:3000"}) as client:
        await client.models.list()


async def test_a_body_above_the_bound_is_refused(serve: Any) -> None:
    async with client_for(serve, FakeGenerator(), max_body_bytes=1000) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.completions.create(model="fake", prompt="a" * 2000)
    assert caught.value.status_code == 413
    assert caught.value.code == "body_too_large"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_generation_that_takes_too_long_is_given_up(serve: Any, stream: bool) -> None:
    generator = FakeGenerator(hold_after_rounds=0)
    async with client_for(serve, generator, request_seconds=0.05) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model="fake", messages=HELLO, stream=stream)
    assert caught.value.code == "deadline_exceeded"
    assert caught.value.status_code == 503
    assert generator.active == 0
