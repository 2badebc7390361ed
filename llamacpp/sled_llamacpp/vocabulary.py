"""The vocabulary of a loaded model: text to tokens, tokens to bytes, and a fingerprint of what the
ids mean.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from typing import Any, Final

from sled_llamacpp.errors import TokenizeError
from sled_llamacpp.library import Library

MAX_TEXT_BYTES: Final = 4 * 1024 * 1024
"""Longest text that is tokenised; the caller's own limits are much lower."""

_PIECE_BYTES: Final = 64
_FINGERPRINT_VERSION: Final = b"sled-vocabulary-1"


class Vocabulary:
    """Reads a model's vocabulary. Lives as long as the model; the library's tokeniser is
    thread-safe.

    `end_tokens` are all ids after which generation ends; `bos` is None when the model has none or
    does not want it added.
    """

    def __init__(self, library: Library, pointer: Any, metadata: Mapping[str, str]) -> None:
        self._library = library
        self._pointer = pointer
        api = library.api
        self.size: int = api.llama_vocab_n_tokens(pointer)
        self.end_tokens = tuple(t for t in range(self.size) if api.llama_vocab_is_eog(pointer, t))
        bos = api.llama_vocab_bos(pointer)
        self.bos: int | None = bos if bos >= 0 and api.llama_vocab_get_add_bos(pointer) else None
        self._tokenizer_kind = (
            metadata.get("tokenizer.ggml.model", ""),
            metadata.get("tokenizer.ggml.pre", ""),
        )

    def encode(self, text: str, *, special: bool, add_bos: bool = True) -> list[int]:
        """Token ids of `text`; `special` reads marker texts such as `<|im_start|>` as their control
        tokens.

        The begin-of-sequence token is put in front when the model wants it, `add_bos` is true and
        the text does not begin with it already.

        Raises:
            TokenizeError: the text is longer than MAX_TEXT_BYTES or cannot be encoded as UTF-8.
        """
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise TokenizeError(f"the text is not valid Unicode: {error.reason}") from error
        if len(data) > MAX_TEXT_BYTES:
            raise TokenizeError(f"the text has {len(data)} bytes; allowed: {MAX_TEXT_BYTES}")
        tokens = self._tokenize(data, special)
        if add_bos and self.bos is not None and tokens[:1] != [self.bos]:
            tokens.insert(0, self.bos)
        return tokens

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes a token stands for; control tokens give b'' unless `special`. Ids outside the
        vocabulary give b''.
        """
        if not 0 <= token < self.size:
            return b""
        ffi, api = self._library.ffi, self._library.api
        capacity = _PIECE_BYTES
        for _ in range(2):
            buffer = ffi.new("char[]", capacity)
            length = api.llama_token_to_piece(self._pointer, token, buffer, capacity, 0, special)
            if length >= 0:
                return bytes(ffi.buffer(buffer, length))
            capacity = -length
        raise TokenizeError(f"token {token} has no bytes")

    def text(self, token: int) -> bytes:
        """The token's entry in the vocabulary as stored (not the bytes it decodes to)."""
        return bytes(self._library.ffi.string(self._text(token)))

    def special_token(self, name: str) -> str:
        """Text of the `bos` or `eos` token, empty when there is none."""
        token = getattr(self._library.api, f"llama_vocab_{name}")(self._pointer)
        return self.text(token).decode("utf-8", "replace") if 0 <= token < self.size else ""

    def fingerprint(self) -> bytes:
        """SHA-256 over every id's text and type and over the tokeniser's kind. Equal means ids mean
        the same.
        """
        digest = hashlib.sha256(_FINGERPRINT_VERSION)
        for kind in self._tokenizer_kind:
            data = kind.encode()
            digest.update(struct.pack("<I", len(data)) + data)
        attribute = self._library.api.llama_vocab_get_attr
        for token in range(self.size):
            data = self.text(token)
            digest.update(struct.pack("<II", attribute(self._pointer, token), len(data)) + data)
        return digest.digest()

    def _text(self, token: int) -> Any:
        return self._library.api.llama_vocab_get_text(self._pointer, token)

    def _tokenize(self, data: bytes, special: bool) -> list[int]:
        ffi, api = self._library.ffi, self._library.api
        capacity = len(data) + 8
        for _ in range(2):
            tokens = ffi.new("int32_t[]", capacity)
            count = api.llama_tokenize(
                self._pointer, data, len(data), tokens, capacity, False, special
            )
            if count >= 0:
                return list(tokens[0:count])
            capacity = -count
            if capacity > MAX_TEXT_BYTES:
                break
        raise TokenizeError(f"a text of {len(data)} bytes could not be tokenised")
