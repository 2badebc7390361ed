from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sled_edge.config import parse_config
from sled_edge.fake_generation import ByteTokenizer
from sled_edge.fake_link import ToyTarget
from sled_edge.generation import GenerationError, Tokenizer
from sled_edge.tokenizer_source import (
    DeferredTokenizer,
    TokenizerFetcher,
    TokenizerUnusable,
    load_tokenizer,
    local_vocabulary,
)
from sled_testkit.edge import QUICK, half, resilient
from sled_testkit.edge_frames import FakeVerifiers

LEAST = "deviceId: pi-1\nverifiers: ['a:1']\n"


def test_a_vocabulary_that_is_still_to_come_refuses_typed() -> None:
    deferred = DeferredTokenizer()
    assert not deferred.resolved
    for use in (
        lambda: deferred.encode("x", special=True),
        lambda: deferred.piece(1),
        lambda: deferred.chat_prompt([]),
    ):
        with pytest.raises(GenerationError) as error:
            use()
        assert error.value.reason == "unavailable"


def test_then_it_is_the_real_one() -> None:
    deferred = DeferredTokenizer()
    real = ByteTokenizer()
    deferred.resolve(real, b"print")
    assert deferred.resolved
    assert (deferred.fingerprint, deferred.vocab_size) == (b"print", 260)
    assert deferred.end_tokens == real.end_tokens
    assert deferred.encode("hi", special=False) == [104, 105]
    assert deferred.piece(104) == b"h"
    assert deferred.chat_prompt([{"role": "user", "content": "x"}]).startswith("<|user|>x")


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ("", None),
        ("drafter: {kind: llamacpp, model: {name: s, path: /m/s.gguf}}", Path("/m/s.gguf")),
        ("tokenizer: {path: /m/t.gguf}", Path("/m/t.gguf")),
        (
            "tokenizer: {path: /m/t.gguf}\n"
            "drafter: {kind: llamacpp, model: {name: s, path: /m/s.gguf}}",
            Path("/m/t.gguf"),
        ),
    ],
)
def test_where_the_vocabulary_is(more: str, path: Path | None) -> None:
    assert local_vocabulary(parse_config(LEAST + more)) == path


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerUnusable, match="there is no file"):
        load_tokenizer(tmp_path / "nowhere.gguf")
    junk = tmp_path / "junk.gguf"
    junk.write_bytes(b"not a model")
    with pytest.raises(TokenizerUnusable, match="junk"):
        load_tokenizer(junk)


async def test_is_fetched_from_whichever_verifier_is_connected() -> None:
    verifiers = FakeVerifiers(
        ToyTarget(vocab_size=260), ("a", "b"), tokenizer_fingerprint=b"theirs"
    )
    verifiers["a"].kill()
    link = resilient(verifiers, ("a", "b"))
    deferred = DeferredTokenizer()
    seen: list[bytes] = []

    def build(data: bytes) -> Tokenizer:
        seen.append(data)
        if len(seen) < 3:
            raise TokenizerUnusable("cut short")
        return ByteTokenizer()

    fetcher = TokenizerFetcher(link, verifiers, deferred, build, QUICK, half)
    await link.start()
    async with asyncio.timeout(30):
        await fetcher.run()
    await link.close()
    assert seen == [b"GGUF"] * 3
    # What the verifier announced is what it will be told.
    assert deferred.fingerprint == b"theirs"


async def test_a_vocabulary_of_another_size_is_not_taken() -> None:
    verifiers = FakeVerifiers(ToyTarget(vocab_size=64))
    link = resilient(verifiers)
    deferred = DeferredTokenizer()
    tried = asyncio.Event()
    running = asyncio.get_running_loop()

    def build(_data: bytes) -> Tokenizer:
        running.call_soon_threadsafe(tried.set)
        return ByteTokenizer()

    fetcher = TokenizerFetcher(link, verifiers, deferred, build, QUICK, half)
    await link.start()
    task = asyncio.create_task(fetcher.run())
    await tried.wait()
    tried.clear()
    await tried.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await link.close()
    assert not deferred.resolved
