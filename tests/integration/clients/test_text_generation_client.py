"""The `text-generation` client, unmodified, against a real server.

Version 0.7.0 was written for pydantic 1: it calls `.dict()`, which pydantic 2 warns of.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import text_generation
from text_generation import errors, types

from sled_edge.fake_generation import Failure, FakeGenerator, say
from sled_edge.generation import GenerationError

pytestmark = pytest.mark.filterwarnings("ignore:The `dict` method is deprecated")

TEXT = "día 日本語 👩‍👩‍👧 done"
END_TOKEN = 256


def text_of(events: list[types.StreamResponse]) -> str:
    return "".join(event.token.text for event in events if not event.token.special)


async def collect(stream: Any, into: list[types.StreamResponse]) -> None:
    async for event in stream:
        into.append(event)


async def test_generate_and_stream_give_the_same_text_with_characters_split_over_tokens(
    serve: Any,
) -> None:
    served = await serve(FakeGenerator(say(TEXT), round_tokens=(1, 2, 5)))
    client = text_generation.AsyncClient(served.url)
    whole = await client.generate("hello", max_new_tokens=200)
    events = [event async for event in client.generate_stream("hello", max_new_tokens=200)]
    assert whole.generated_text == TEXT
    assert text_of(events) == TEXT
    assert all("\ufffd" not in event.token.text for event in events)
    assert [event.generated_text for event in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1].generated_text == TEXT
    assert events[-1].token.special
    assert events[-1].token.id == END_TOKEN
    assert events[-1].details is not None
    assert events[-1].details.finish_reason == types.FinishReason.EndOfSequenceToken
    assert events[-1].details.generated_tokens == len(TEXT.encode())


async def test_the_sync_client_generates_and_streams(serve: Any) -> None:
    served = await serve(FakeGenerator(say(TEXT)))

    def talk() -> tuple[str, str]:
        client = text_generation.Client(served.url)
        whole = client.generate("hello", max_new_tokens=200)
        events = list(client.generate_stream("hello", max_new_tokens=200))
        return whole.generated_text, text_of(events)

    assert await asyncio.to_thread(talk) == (TEXT, TEXT)


async def test_details_hold_every_token(serve: Any) -> None:
    served = await serve(FakeGenerator(say("abc")))
    reply = await text_generation.AsyncClient(served.url).generate("hello", max_new_tokens=2)
    assert reply.generated_text == "ab"
    assert reply.details.finish_reason == types.FinishReason.Length
    assert reply.details.generated_tokens == 2
    assert reply.details.prefill == []
    assert [(t.id, t.text, t.logprob, t.special) for t in reply.details.tokens] == [
        (97, "a", None, False),
        (98, "b", None, False),
    ]


@pytest.mark.parametrize("round_tokens", [(1,), (3,), (64,)])
async def test_a_stop_sequence_ends_the_text_and_stays_in_it(
    serve: Any, round_tokens: tuple[int, ...]
) -> None:
    generator = FakeGenerator(say("one</end>two"), round_tokens=round_tokens)
    client = text_generation.AsyncClient((await serve(generator)).url)
    whole = await client.generate("hello", stop_sequences=["</end>"])
    events = [event async for event in client.generate_stream("hello", stop_sequences=["</end>"])]
    assert whole.generated_text == text_of(events) == events[-1].generated_text == "one</end>"
    assert whole.details.finish_reason == types.FinishReason.StopSequence
    assert whole.details.generated_tokens == len("one</end>")
    await asyncio.wait_for(generator.idle(), 10)


async def test_a_character_cut_off_by_the_length_is_replaced_in_the_last_token(serve: Any) -> None:
    served = await serve(FakeGenerator(say("a😀"), round_tokens=(1,)))
    client = text_generation.AsyncClient(served.url)
    whole = await client.generate("hello", max_new_tokens=3)
    events = [event async for event in client.generate_stream("hello", max_new_tokens=3)]
    assert whole.generated_text == text_of(events) == events[-1].generated_text == "a\ufffd"


async def test_the_whole_text_comes_back_when_asked(serve: Any) -> None:
    client = text_generation.AsyncClient((await serve(FakeGenerator(say("DEF")))).url)
    whole = await client.generate("abc", return_full_text=True)
    events = [event async for event in client.generate_stream("abc", return_full_text=True)]
    assert whole.generated_text == events[-1].generated_text == "abcDEF"
    assert text_of(events) == "DEF"


async def test_sampling_is_on_when_asked_for_or_implied(serve: Any) -> None:
    generator = FakeGenerator(say("x"))
    client = text_generation.AsyncClient((await serve(generator)).url)
    greedy = await client.generate("hello", seed=7)
    sampled = await client.generate("hello", do_sample=True, seed=7)
    implied = await client.generate("hello", temperature=0.5, top_k=5, top_p=0.9)
    params = [request.sampling for request in generator.requests]
    assert [p.temperature for p in params] == [0.0, 1.0, 0.5]
    assert (params[2].top_k, params[2].top_p) == (5, 0.9)
    assert greedy.details.seed is None
    assert sampled.details.seed == 7
    assert implied.details.seed == params[2].seed


async def test_truncate_keeps_the_end_of_the_prompt(serve: Any) -> None:
    generator = FakeGenerator(say("x"))
    client = text_generation.AsyncClient((await serve(generator)).url)
    await client.generate("abcdef", truncate=2)
    assert generator.requests[0].prompt_tokens == tuple(b"ef")


@pytest.mark.parametrize(
    "parameters",
    [
        {"best_of": 2, "do_sample": True},
        {"typical_p": 0.5},
        {"watermark": True},
        {"decoder_input_details": True},
        {"top_n_tokens": 2},
        {"grammar": types.Grammar(type=types.GrammarType.Json, value={"type": "object"})},
        {"frequency_penalty": 0.5},
        {"max_new_tokens": 0},
        {"max_new_tokens": 100_000},
        {"temperature": 11.0},
        {"temperature": 0.001},
        {"stop_sequences": ["a"] * 5},
        {"stop_sequences": [""]},
    ],
)
async def test_bad_parameters_are_validation_errors(serve: Any, parameters: dict[str, Any]) -> None:
    generator = FakeGenerator()
    client = text_generation.AsyncClient((await serve(generator)).url)
    with pytest.raises(errors.ValidationError):
        await client.generate("hello", **parameters)
    assert generator.requests == []


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("queue_full", errors.OverloadedError),
        ("too_many_sequences", errors.OverloadedError),
        ("unavailable", errors.GenerationError),
        ("internal", errors.GenerationError),
        ("prompt_too_long", errors.ValidationError),
    ],
)
async def test_refusals_of_the_verifier_become_the_client_s_own_errors(
    serve: Any, reason: str, kind: type[Exception]
) -> None:
    generator = FakeGenerator(failure=Failure(GenerationError(reason, "why")))
    client = text_generation.AsyncClient((await serve(generator)).url)
    with pytest.raises(kind):
        await client.generate("hello")
    with pytest.raises(kind):
        await anext(aiter(client.generate_stream("hello")))


async def test_a_refusal_in_mid_stream_is_the_client_s_own_error(serve: Any) -> None:
    failure = Failure(GenerationError("unavailable", "the verifier is away"), after_rounds=1)
    generator = FakeGenerator(say("abcdefgh"), failure=failure)
    client = text_generation.AsyncClient((await serve(generator)).url)
    seen: list[types.StreamResponse] = []
    with pytest.raises(errors.GenerationError, match="the verifier is away"):
        await collect(client.generate_stream("hello"), seen)
    assert text_of(seen) == "abcd"


async def test_a_missing_path_is_the_client_s_own_error(serve: Any) -> None:
    served = await serve(FakeGenerator())
    with pytest.raises(errors.NotFoundError):
        await text_generation.AsyncClient(f"{served.url}/nowhere").generate("hello")


async def test_chat_works_for_whatever_is_served(serve: Any) -> None:
    served = await serve(FakeGenerator(say(TEXT), model="org/target-7b"))
    client = text_generation.AsyncClient(served.url)
    messages = [types.Message(role="user", content="hello")]
    reply = await client.chat(messages, max_tokens=100)
    chunks = [chunk async for chunk in await client.chat(messages, max_tokens=100, stream=True)]
    assert reply.choices[0].message.content == TEXT
    assert reply.choices[0].finish_reason == "stop"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_bad_chats_are_the_client_s_own_errors(serve: Any) -> None:
    client = text_generation.AsyncClient((await serve(FakeGenerator())).url)
    with pytest.raises(errors.BadRequestError):
        await client.chat([types.Message(role="tool", content="hello")])
    busy = FakeGenerator(failure=Failure(GenerationError("queue_full", "full")))
    client = text_generation.AsyncClient((await serve(busy)).url)
    with pytest.raises(errors.RateLimitExceededError):
        await client.chat([types.Message(role="user", content="hello")])
