"""Text to tokens and back, over the tiny model's byte vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest

from sled_llamacpp import Model, TokenizeError
from sled_llamacpp.vocabulary import MAX_TEXT_BYTES
from sled_testkit.tiny_model import END_TOKEN, START_TOKEN, VOCAB_SIZE, write_tiny_model


def test_facts(tiny: Model) -> None:
    assert tiny.vocabulary.size == VOCAB_SIZE
    assert tiny.vocabulary.end_tokens == (END_TOKEN,)
    assert tiny.vocabulary.bos is None
    assert tiny.vocabulary.special_token("bos") == "<|im_start|>"
    assert tiny.vocabulary.special_token("eos") == "<|im_end|>"


def test_merges_apply(tiny: Model) -> None:
    assert tiny.vocabulary.encode("the", special=False) == [256, ord("e")]


def test_marker_texts_are_control_tokens_only_when_asked(tiny: Model) -> None:
    assert tiny.vocabulary.encode("<|im_end|>", special=True) == [END_TOKEN]
    assert END_TOKEN not in tiny.vocabulary.encode("<|im_end|>", special=False)


def test_pieces_give_the_text_back(tiny: Model) -> None:
    text = "the cat, été, 日本, \x00\n 😀"
    tokens = tiny.vocabulary.encode(text, special=False)
    assert b"".join(map(tiny.vocabulary.piece, tokens)).decode() == text


def test_control_tokens_have_no_bytes_unless_asked(tiny: Model) -> None:
    assert tiny.vocabulary.piece(START_TOKEN) == b""
    assert tiny.vocabulary.piece(START_TOKEN, special=True) == b"<|im_start|>"


@pytest.mark.parametrize("token", [-1, VOCAB_SIZE, 2**31])
def test_ids_outside_have_no_bytes(tiny: Model, token: int) -> None:
    assert tiny.vocabulary.piece(token) == b""


def test_an_empty_text_has_no_tokens(tiny: Model) -> None:
    assert tiny.vocabulary.encode("", special=True) == []


def test_half_a_surrogate_pair_is_refused(tiny: Model) -> None:
    with pytest.raises(TokenizeError, match=r"not valid Unicode"):
        tiny.vocabulary.encode("\ud83d", special=False)


def test_a_text_without_end_is_refused(tiny: Model) -> None:
    with pytest.raises(TokenizeError, match=r"allowed"):
        tiny.vocabulary.encode("a" * (MAX_TEXT_BYTES + 1), special=False)


def test_the_fingerprint_is_of_the_vocabulary_not_the_weights(tiny: Model, tmp_path: Path) -> None:
    other = write_tiny_model(tmp_path / "other.gguf", seed=2)
    with Model(other) as model:
        assert model.vocabulary.fingerprint() == tiny.vocabulary.fingerprint()
    data = other.read_bytes().replace(b"<|im_end|>", b"<|im_eNd|>")
    other.write_bytes(data)
    with Model(other, vocab_only=True) as model:
        assert model.vocabulary.fingerprint() != tiny.vocabulary.fingerprint()
    assert len(tiny.vocabulary.fingerprint()) == 32


def test_metadata(tiny: Model) -> None:
    assert tiny.metadata["general.architecture"] == "llama"
    assert tiny.trained_context_tokens == 4096
    assert tiny.weight_bytes > 100_000
