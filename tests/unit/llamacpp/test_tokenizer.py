"""LlamaCppTokenizer against the Tokenizer contract, on the tiny model's vocabulary."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from sled_edge.generation import Tokenizer
from sled_edge.tokenizer import LlamaCppTokenizer
from sled_llamacpp import LlamaCppError, Model
from sled_llamacpp.gguf_header import read_gguf_header
from sled_testkit.tiny_model import END_TOKEN, START_TOKEN, VOCAB_SIZE, write_tiny_model

MESSAGES = [{"role": "user", "content": "hi"}]


def test_from_a_model_file(tiny_path: Path, tiny: Model) -> None:
    tokenizer: Tokenizer = LlamaCppTokenizer.from_path(tiny_path)
    assert tokenizer.fingerprint == tiny.vocabulary.fingerprint()
    assert tokenizer.vocab_size == VOCAB_SIZE
    assert tokenizer.end_tokens == (END_TOKEN,)
    assert tokenizer.encode("the<|im_end|>", special=True) == [256, ord("e"), END_TOKEN]
    assert tokenizer.piece(256) == b"th"
    assert tokenizer.piece(START_TOKEN) == b""


def test_from_the_verifiers_bytes_leaves_no_file(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tokenizer = LlamaCppTokenizer.from_bytes(read_gguf_header(tiny_path).vocabulary)
    assert list(tmp_path.iterdir()) == []
    assert tokenizer.encode("th", special=False) == [256]
    assert tokenizer.chat_prompt(MESSAGES).endswith("<|im_start|>assistant\n")
    tokenizer.close()
    tokenizer.close()


def test_garbage_from_the_verifier_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(LlamaCppError, match=r"vocabulary.gguf could not be loaded"):
        LlamaCppTokenizer.from_bytes(b"GGUF" + bytes(64))
    assert list(tmp_path.iterdir()) == []


def test_the_models_own_template_is_used(tiny_path: Path) -> None:
    tokenizer = LlamaCppTokenizer.from_path(tiny_path)
    prompt = tokenizer.chat_prompt(MESSAGES)
    assert prompt == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.encode(prompt, special=True)[0] == START_TOKEN


def test_a_model_without_template_gets_the_plain_form(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "plain.gguf", chat_template=None)
    assert LlamaCppTokenizer.from_path(path).chat_prompt(MESSAGES) == "user: hi\nassistant:"
