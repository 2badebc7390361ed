"""The vocabulary that devices are checked against, from a GGUF file of the target model. Loads no
weights.

A Hugging Face folder and a GGUF file describe a tokeniser differently; devices fingerprint the
GGUF's. So the verifier reads the same kind of file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sled_llamacpp import LlamaCppError, Model
from sled_llamacpp.gguf_header import read_gguf_header
from sled_verifier.engine.base import EngineError


@dataclass(frozen=True, slots=True)
class VocabularyFile:
    """What a verifier tells devices about its vocabulary; `gguf` is a file without tensors."""

    size: int
    fingerprint: bytes
    end_tokens: tuple[int, ...]
    gguf: bytes


def read_vocabulary(path: Path) -> VocabularyFile:
    """Read the vocabulary of the GGUF file at `path`.

    Raises:
        EngineError: missing, damaged, or not readable by llama.cpp.
    """
    try:
        gguf = read_gguf_header(path).vocabulary
        model = Model(path, vocab_only=True)
    except LlamaCppError as error:
        raise EngineError(f"the vocabulary file cannot be used: {error}") from error
    try:
        vocabulary = model.vocabulary
        return VocabularyFile(
            vocabulary.size, vocabulary.fingerprint(), tuple(vocabulary.end_tokens), gguf
        )
    finally:
        model.close()
