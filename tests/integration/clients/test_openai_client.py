"""The official `openai` client, unmodified, against a real server: what works."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from sled_edge.fake_generation import ByteTokenizer, FakeGenerator, say
from sled_testkit.openai_client import HELLO, TEXT, client_for, joined


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
