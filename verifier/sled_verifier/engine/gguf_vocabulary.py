"""The vocabulary that devices are checked against, read from a GGUF file of the target model: for runtimes whose
weights come in another format. Loads no weights.

Devices fingerprint the vocabulary of their own GGUF file, and a Hugging Face folder describes a tokeniser
differently, so the verifier reads the same kind of file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sled_llamacpp import LlamaCppError, Model
from sled_llamacpp.gguf_header import read_gguf_header
from sled_verifier.engine.base import EngineError


@dataclass(frozen=True, slots=True)
class GgufVocabulary:
    """What a verifier tells devices about its vocabulary; `gguf` is a file without tensors."""

    size: int
    fingerprint: bytes
    end_tokens: tuple[int, ...]
    gguf: bytes


def read_vocabulary(path: Path) -> GgufVocabulary:
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
        words = model.vocabulary
        return GgufVocabulary(words.size, words.fingerprint(), tuple(words.end_tokens), gguf)
    finally:
        model.close()


def encode_with(path: Path, text: str) -> list[int]:
    """The ids that `text` has in the GGUF file's vocabulary, those included that it begins every text with.

    Raises:
        EngineError: not readable by llama.cpp.
    """
    try:
        with Model(path, vocab_only=True) as model:
            return list(model.vocabulary.encode(text, special=False))
    except LlamaCppError as error:
        raise EngineError(f"the vocabulary file cannot be used: {error}") from error


def find_vocabulary(folder: Path) -> Path:
    """The only GGUF file in a model folder.

    Raises:
        EngineError: there is none, or more than one.
    """
    found = sorted(folder.glob("*.gguf")) if folder.is_dir() else []
    if len(found) != 1:
        raise EngineError(
            f"{folder.name} has {len(found)} GGUF files; name the one whose vocabulary "
            "devices have as model.vocabulary"
        )
    return found[0]
