"""The official `openai` client, unmodified, against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest

from sled_edge.fake_generation import ByteTokenizer, Failure, FakeGenerator, say
from sled_edge.generation import GenerationError

TEXT = "día 日本語 👩‍👩‍👧 done"
HELLO: Any = [{"role": "user", "content": "hello"}]


def client_of(served: Any, **options: Any) -> openai.AsyncOpenAI:
    options = {"api_key": "unused", "max_retries": 0, **options}
    return openai.AsyncOpenAI(base_url=f"{served.url}/v1", **options)


@asynccontextmanager
async def client_for(
    serve: Any, generator: FakeGenerator, **options: Any
) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(await serve(generator, **options)) as client:
        yield client


async def joined(stream: Any) -> str:
    return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])


async def test_chat_streamed_or_not_gives_the_same_text_with_characters_split_over_tokens(
    serve: Any,
) -> None:
    async with client_for(serve, FakeGenerator(say(TEXT), round_tokens=(1, 2, 5))) as client:
        whole = await client.chat.completions.create(model="fake", messages=HELLO)
        assert whole.choices[0].message.content == TEXT
        assert whole.choices[0].message.role == "assistant"
        assert whole.choices[0].finish_reason == "stop"
        assert whole.system_fingerprint
        stream = await client.chat.completions.create(model="fake", messages=HELLO, stream=True)
        chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == TEXT
    assert all("\ufffd" not in (c.choices[0].delta.content or "") for c in chunks)
    assert [c.choices[0].finish_reason for c in chunks[-2:]] == [None, "stop"]
    assert len({chunk.id for chunk in chunks}) == 1


async def test_the_sync_client_chats_and_streams(serve: Any) -> None:
    served = await serve(FakeGenerator(say(TEXT)))

    def talk() -> tuple[str | None, str]:
        with openai.OpenAI(base_url=f"{served.url}/v1", api_key="unused") as client:
            whole = client.chat.completions.create(model="fake", messages=HELLO)
            parts = client.chat.completions.create(model="fake", messages=HELLO, stream=True)
            streamed = "".join(part.choices[0].delta.content or "" for part in parts)
        return whole.choices[0].message.content, streamed

    assert await asyncio.to_thread(talk) == (TEXT, TEXT)


async def test_the_client_s_stream_helper_accumulates_one_message(serve: Any) -> None:
    async with (
        client_for(serve, FakeGenerator(say(TEXT))) as client,
        client.chat.completions.stream(model="fake", messages=HELLO) as stream,
    ):
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == TEXT
    assert final.choices[0].message.role == "assistant"


async def test_messages_reach_the_model_s_own_template(serve: Any) -> None:
    generator = FakeGenerator(say("x"))
    async with client_for(serve, generator) as client:
        await client.chat.completions.create(
            model="fake",
            messages=[
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": [{"type": "text", "text": "a"}] * 2},
                {"role": "assistant", "content": "b"},
                {"role": "user", "content": "c"},
            ],
        )
    text = "<|system|>be brief<|user|>a\na<|assistant|>b<|user|>c<|assistant|>"
    assert list(generator.requests[0].prompt_tokens) == ByteTokenizer().encode(text, special=True)


@pytest.mark.parametrize("round_tokens", [(1,), (3,), (64,)])
async def test_a_stop_string_ends_the_text_before_it_and_frees_the_generation(
    serve: Any, round_tokens: tuple[int, ...]
) -> None:
    generator = FakeGenerator(say("one</end>two three four"), round_tokens=round_tokens)
    async with client_for(serve, generator) as client:
        whole = await client.chat.completions.create(
            model="fake", messages=HELLO, stop=["</end>", "nothing"]
        )
        stream = await client.chat.completions.create(
            model="fake", messages=HELLO, stop="</end>", stream=True
        )
        assert await joined(stream) == whole.choices[0].message.content == "one"
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == len("one</end>")
    await asyncio.wait_for(generator.idle(), 10)
    assert generator.closed == 2


async def test_max_tokens_ends_with_length_and_counts(serve: Any) -> None:
    generator = FakeGenerator(say("abcdefgh"))
    async with client_for(serve, generator) as client:
        for name in ("max_tokens", "max_completion_tokens"):
            reply = await client.chat.completions.create(
                model="fake", messages=HELLO, extra_body={name: 5}
            )
            assert reply.choices[0].message.content == "abcde"
            assert reply.choices[0].finish_reason == "length"
            assert reply.usage is not None
            prompt_tokens = len(generator.requests[0].prompt_tokens)
            assert reply.usage.prompt_tokens == prompt_tokens
            assert reply.usage.completion_tokens == 5
            assert reply.usage.total_tokens == prompt_tokens + 5


async def test_a_stream_ends_with_usage_when_asked(serve: Any) -> None:
    async with client_for(serve, FakeGenerator(say("abc"))) as client:
        stream = await client.chat.completions.create(
            model="fake", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_sampling_reaches_the_loop(serve: Any) -> None:
    generator = FakeGenerator(say("x"))
    async with client_for(serve, generator) as client:
        await client.chat.completions.create(
            model="fake",
            messages=HELLO,
            temperature=0.7,
            top_p=0.9,
            seed=-1,
            extra_body={"top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1, "ignore_eos": True},
        )
        await client.chat.completions.create(model="fake", messages=HELLO)
        await client.chat.completions.create(model="fake", messages=HELLO, temperature=0)
    said, default, greedy = generator.requests
    assert said.sampling.temperature == 0.7
    assert said.sampling.top_p == 0.9
    assert said.sampling.top_k == 40
    assert said.sampling.min_p == 0.05
    assert said.sampling.repetition_penalty == 1.1
    assert said.sampling.seed == 2**64 - 1
    assert said.ignore_end_tokens
    assert default.sampling.temperature == 1.0
    assert default.max_tokens == 1024
    assert greedy.sampling.greedy


async def test_completions_take_text_or_tokens_and_echo(serve: Any) -> None:
    generator = FakeGenerator(say("DEF"))
    async with client_for(serve, generator) as client:
        for prompt in ("abc", ["abc"], list(b"abc"), [list(b"abc")]):
            reply = await client.completions.create(model="fake", prompt=prompt)
            assert reply.choices[0].text == "DEF"
            assert reply.object == "text_completion"
            assert generator.requests[-1].prompt_tokens == tuple(b"abc")
        assert generator.requests[-1].max_tokens == 16
        echoed = await client.completions.create(model="fake", prompt=list(b"abc"), echo=True)
        assert echoed.choices[0].text == "abcDEF"
        stream = await client.completions.create(model="fake", prompt="abc", echo=True, stream=True)
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == "abcDEF"
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_the_one_model_is_listed(serve: Any) -> None:
    async with client_for(serve, FakeGenerator(model="org/target-7b")) as client:
        assert [model.id async for model in client.models.list()] == ["org/target-7b"]
        assert (await client.models.retrieve("org/target-7b")).owned_by == "sled"
        with pytest.raises(openai.NotFoundError) as caught:
            await client.models.retrieve("other")
        assert caught.value.code == "model_not_found"


async def test_speculation_is_reported_in_the_shape_of_vllm(serve: Any) -> None:
    generator = FakeGenerator(say("abcdef"), round_tokens=(3,))
    async with client_for(serve, generator) as client:
        whole = await client.chat.completions.create(model="fake", messages=HELLO)
        stream = await client.chat.completions.create(model="fake", messages=HELLO, stream=True)
        last = [chunk async for chunk in stream][-1]
    for reply in (whole, last):
        report = (reply.model_extra or {})["metrics"]["speculative_decoding"]
        assert report == {
            "mean_acceptance_length": 3.0,
            "draft_acceptance_rate": 1.0,
            "acceptance_histogram": {"2": 2},
            "num_accepted_draft_tokens": 4,
            "num_draft_tokens": 4,
            "num_spec_steps": 2,
            "num_spec_tokens": 2,
        }


@pytest.mark.parametrize(
    ("rounds", "header"),
    [(frozenset(), "true"), (frozenset({1}), "partial"), (frozenset(range(9)), "false")],
)
async def test_text_of_the_draft_model_alone_is_marked(
    serve: Any, rounds: frozenset[int], header: str
) -> None:
    generator = FakeGenerator(say("abcdef"), round_tokens=(2,), unverified_rounds=rounds)
    async with client_for(serve, generator) as client:
        raw = await client.chat.completions.with_raw_response.create(model="fake", messages=HELLO)
        stream = await client.chat.completions.create(model="fake", messages=HELLO, stream=True)
        chunks = [chunk.choices[0] async for chunk in stream]
    assert raw.headers["x-sled-verified"] == header
    total = {"verified": False, "unverified_tokens": 2 * len(rounds & {0, 1, 2})}
    for choice in (raw.parse().choices[0], chunks[-1]):
        assert (choice.model_extra or {}).get("sled") == (total if rounds else None)
    marks = [(c.model_extra or {}).get("sled") for c in chunks if c.delta.content]
    assert marks == [{"verified": False} if i in rounds else None for i in range(3)]


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
