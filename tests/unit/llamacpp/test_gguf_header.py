"""Reading the head of a GGUF file, sound and damaged."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from gguf import GGUFReader

from sled_llamacpp import Model, ModelLoadError
from sled_llamacpp.gguf_header import read_gguf_header


def test_weight_types_are_named(tiny_path: Path) -> None:
    assert read_gguf_header(tiny_path).weight_types == {"F32"}


def test_the_vocabulary_is_a_file_of_its_own(tiny_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.gguf"
    path.write_bytes(read_gguf_header(tiny_path).vocabulary)
    assert path.stat().st_size < tiny_path.stat().st_size / 10
    whole, bare = GGUFReader(tiny_path), GGUFReader(path)
    assert bare.tensors == []
    fields = [name for name in whole.fields if not name.startswith("GGUF.")]
    assert [name for name in bare.fields if not name.startswith("GGUF.")] == fields
    for name in fields:
        assert bare.fields[name].contents() == whole.fields[name].contents()


def test_a_vocabulary_file_tokenises_like_the_model(tiny: Model, tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.gguf"
    path.write_bytes(read_gguf_header(tiny.path).vocabulary)
    with Model(path, vocab_only=True) as bare:
        assert bare.vocabulary.fingerprint() == tiny.vocabulary.fingerprint()
        assert bare.vocabulary.end_tokens == tiny.vocabulary.end_tokens
        assert bare.chat_template() == tiny.chat_template()
        text = "the thing <|im_start|> é"
        expected = tiny.vocabulary.encode(text, special=True)
        assert bare.vocabulary.encode(text, special=True) == expected


def test_every_cut_is_noticed(tiny_path: Path, tmp_path: Path) -> None:
    """Cut anywhere before the tensors, a header is refused, never read wrongly."""
    size = len(read_gguf_header(tiny_path).vocabulary)
    data = tiny_path.read_bytes()[:size]
    path = tmp_path / "cut.gguf"
    for end in (*range(1, 200), *range(200, size, 97)):
        path.write_bytes(data[:end])
        with pytest.raises(ModelLoadError, match=r"cut.gguf"):
            read_gguf_header(path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", r"cut.gguf"),
        (b"GGML" + bytes(60), r"little-endian GGUF"),
        (struct.pack("<4sIQQ", b"GGUF", 1, 0, 0), r"version 2 or 3"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 2**60, 0), r"more than"),
        (struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 2**63), r"cut off"),
        (struct.pack("<4sIQQQ1sI", b"GGUF", 3, 0, 1, 1, b"a", 77), r"unknown type 77"),
        (struct.pack("<4sIQQQ1sIIQ", b"GGUF", 3, 0, 1, 1, b"a", 9, 9, 1), r"unsupported type 9"),
        (struct.pack("<4sIQQQ1sIIQ", b"GGUF", 3, 0, 1, 1, b"a", 9, 8, 2**40), r"more than"),
    ],
)
def test_a_hostile_header_is_refused(data: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelLoadError, match=reason):
        read_gguf_header(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"absent.gguf cannot be read"):
        read_gguf_header(tmp_path / "absent.gguf")
