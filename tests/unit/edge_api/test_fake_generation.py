from __future__ import annotations

import pytest

from sled_edge.fake_generation import ByteTokenizer, Failure, FakeGenerator, echo, say
from sled_edge.generation import Delta, FinishReason, GenerationError, GenerationRequest


async def deltas(generator: FakeGenerator, request: GenerationRequest) -> list[Delta]:
    return [delta async for delta in generator.generate(request)]


def test_bytes_and_markers_go_both_ways() -> None:
    tokenizer = ByteTokenizer()
    text = tokenizer.chat_prompt([{"role": "user", "content": "é"}])
    tokens = tokenizer.encode(text, special=True)
    assert tokens == [258, 0xC3, 0xA9, 259]
    assert b"".join(map(tokenizer.piece, tokens)) == "é".encode()
    assert tokenizer.encode("<|end|>", special=False) == list(b"<|end|>")
    assert tokenizer.encode("<|end|>", special=True) == list(tokenizer.end_tokens)


def test_fingerprints_tell_vocabularies_apart() -> None:
    assert ByteTokenizer().fingerprint == ByteTokenizer().fingerprint
    assert ByteTokenizer().fingerprint != ByteTokenizer(vocab_size=512).fingerprint
    assert ByteTokenizer(fingerprint=b"x").fingerprint == b"x"
    with pytest.raises(ValueError, match="vocab_size"):
        ByteTokenizer(vocab_size=259)


@pytest.mark.parametrize(
    ("max_tokens", "context", "tokens", "finish"),
    [
        (10, 100, b"abcd", FinishReason.END_TOKEN),
        (4, 100, b"abcd", FinishReason.LENGTH),
        (2, 100, b"ab", FinishReason.LENGTH),
        (10, 4, b"abc", FinishReason.CONTEXT_FULL),
    ],
)
async def test_a_reply_ends_for_a_reason(
    max_tokens: int, context: int, tokens: bytes, finish: FinishReason
) -> None:
    generator = FakeGenerator(say("abcd"), round_tokens=(1, 2), context=context)
    seen = await deltas(generator, GenerationRequest((1,), max_tokens))
    assert bytes(t for delta in seen for t in delta.tokens) == tokens
    assert [delta.finish for delta in seen] == [None] * (len(seen) - 1) + [finish]


async def test_end_tokens_end_the_reply_unless_ignored() -> None:
    generator = FakeGenerator(lambda request: (97, 256, 98))
    kept = await deltas(generator, GenerationRequest((1,), 9))
    assert [t for delta in kept for t in delta.tokens] == [97]
    ignored = await deltas(generator, GenerationRequest((1,), 9, ignore_end_tokens=True))
    assert [t for delta in ignored for t in delta.tokens] == [97, 256, 98]


async def test_echo_answers_with_the_prompt_s_bytes() -> None:
    seen = await deltas(FakeGenerator(echo), GenerationRequest((258, 97, 98, 259), 9))
    assert [t for delta in seen for t in delta.tokens] == [97, 98]


async def test_failures_and_the_bound_on_sequences_are_typed() -> None:
    generator = FakeGenerator(say("abcdefgh"), failure=Failure(GenerationError("x", "y"), 1))
    with pytest.raises(GenerationError):
        await deltas(generator, GenerationRequest((1,), 9))
    assert (generator.active, generator.closed) == (0, 1)
    with pytest.raises(GenerationError) as caught:
        await deltas(FakeGenerator(max_sequences=0), GenerationRequest((1,), 9))
    assert caught.value.reason == "too_many_sequences"
