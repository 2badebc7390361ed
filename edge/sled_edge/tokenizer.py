"""The device's tokeniser: a GGUF file's vocabulary and chat template, from the draft model or from
the verifier.

Loads no weights. Must not know HTTP, gRPC or drafting.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sled_edge.chat_template import ChatTemplate
from sled_llamacpp import Library, Model


class LlamaCppTokenizer:
    """The vocabulary of a GGUF file. Implements `sled_edge.generation.Tokenizer`; safe for several
    threads.

    Use `from_path` or `from_bytes`. `encode` puts the model's begin-of-sequence token in front when
    the model wants one.

    Raises:
        sled_llamacpp.LlamaCppError: the library or the file cannot be used.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._vocabulary = model.vocabulary
        self.fingerprint = self._vocabulary.fingerprint()
        self.vocab_size = self._vocabulary.size
        self.end_tokens = self._vocabulary.end_tokens
        self._template = ChatTemplate(
            model.chat_template(),
            bos=self._vocabulary.special_token("bos"),
            eos=self._vocabulary.special_token("eos"),
        )

    @classmethod
    def from_path(
        cls, path: str | os.PathLike[str], library: str | os.PathLike[str] | None = None
    ) -> LlamaCppTokenizer:
        """Read the vocabulary of a GGUF file, with or without tensors."""
        return cls(Model(path, library=Library.load(library), vocab_only=True))

    @classmethod
    def from_bytes(
        cls, data: bytes, library: str | os.PathLike[str] | None = None
    ) -> LlamaCppTokenizer:
        """Read a vocabulary that the verifier sent (`GetTokenizer`); the file that this takes is
        private and removed.
        """
        with tempfile.TemporaryDirectory(prefix="sled-tokenizer-") as folder:
            path = Path(folder) / "vocabulary.gguf"
            path.write_bytes(data)
            return cls.from_path(path, library)

    def encode(self, text: str, *, special: bool) -> list[int]:
        """See `Tokenizer.encode`.

        Raises:
            sled_llamacpp.TokenizeError: not valid Unicode, or longer than 4 MiB.
        """
        return self._vocabulary.encode(text, special=special)

    def piece(self, token: int) -> bytes:
        """See `Tokenizer.piece`."""
        return self._vocabulary.piece(token)

    def chat_prompt(self, messages: Sequence[dict[str, str]]) -> str:
        """See `Tokenizer.chat_prompt`.

        Raises:
            sled_edge.chat_template.ChatTemplateError: the template refuses the messages or cannot
                be rendered.
        """
        return self._template.render(messages)

    def close(self) -> None:
        """Free the vocabulary; closing twice is allowed."""
        self._model.close()
