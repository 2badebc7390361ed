"""A GGUF file loaded by llama.cpp: weights, metadata and vocabulary. Never runs a forward pass."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol

from sled_llamacpp.errors import ModelLoadError
from sled_llamacpp.library import Library
from sled_llamacpp.vocabulary import Vocabulary

_TEXT_BYTES: Final = 4096


class Closable(Protocol):
    """What a model asks of the contexts over it."""

    def close(self) -> None:
        """Free the memory."""
        ...


class Model:
    """Weights and vocabulary of one GGUF file. Closing it closes its contexts; closing twice is
    allowed.

    `vocab_only` loads no weights: such a model tokenises but makes no context.

    Raises:
        ModelLoadError: missing or damaged file, or an architecture whose cache cannot be rolled
            back.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        library: Library | None = None,
        vocab_only: bool = False,
        gpu_layers: int = -1,
    ) -> None:
        self.library = library or Library.load()
        self.path = Path(path)
        self.vocab_only = vocab_only
        self.contexts: weakref.WeakSet[Closable] = weakref.WeakSet()
        self._pointer = self._load(gpu_layers)
        try:
            self.metadata = self._read_metadata()
            self.vocabulary = Vocabulary(
                self.library, self.library.api.llama_model_get_vocab(self._pointer), self.metadata
            )
            if not vocab_only:
                self._check_usable()
        except BaseException:
            self.close()
            raise

    @property
    def pointer(self) -> Any:
        """The C handle, for this package.

        Raises:
            ModelLoadError: the model was closed.
        """
        if self._pointer is None:
            raise ModelLoadError(f"{self.path.name} was closed")
        return self._pointer

    @property
    def trained_context_tokens(self) -> int:
        """Longest context that the model was trained for; 0 when the file does not say."""
        return int(self.library.api.llama_model_n_ctx_train(self.pointer))

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors."""
        return int(self.library.api.llama_model_size(self.pointer))

    def chat_template(self) -> str | None:
        """The Jinja text of the model's own chat template, None when the file has none."""
        text = self.library.api.llama_model_chat_template(self.pointer, self.library.ffi.NULL)
        if text == self.library.ffi.NULL:
            return None
        return bytes(self.library.ffi.string(text)).decode("utf-8", "replace")

    def close(self) -> None:
        """Free the memory, that of open contexts first."""
        for context in list(self.contexts):
            context.close()
        if self._pointer is not None:
            self.library.api.llama_model_free(self._pointer)
            self._pointer = None

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _load(self, gpu_layers: int) -> Any:
        if not self.path.is_file():
            raise ModelLoadError(f"no model file at {self.path}")
        params = self.library.api.llama_model_default_params()
        params.vocab_only = self.vocab_only
        params.n_gpu_layers = gpu_layers
        self.library.last_complaint()
        pointer = self.library.api.llama_model_load_from_file(os.fsencode(self.path), params)
        if pointer == self.library.ffi.NULL:
            detail = self.library.last_complaint() or "llama.cpp gave no reason"
            raise ModelLoadError(f"{self.path.name} could not be loaded: {detail}")
        return pointer

    def _check_usable(self) -> None:
        api = self.library.api
        unusable = (
            ("has an encoder", api.llama_model_has_encoder),
            ("is recurrent, so its state cannot be rolled back", api.llama_model_is_recurrent),
            ("is a hybrid whose state cannot be rolled back", api.llama_model_is_hybrid),
            ("is a diffusion model", api.llama_model_is_diffusion),
        )
        for reason, test in unusable:
            if test(self._pointer):
                raise ModelLoadError(f"{self.path.name} {reason}")

    def _read_metadata(self) -> dict[str, str]:
        api, found = self.library.api, {}
        for index in range(api.llama_model_meta_count(self._pointer)):
            key = self._meta_text(api.llama_model_meta_key_by_index, index)
            found[key] = self._meta_text(api.llama_model_meta_val_str_by_index, index)
        return found

    def _meta_text(self, read: Any, index: int) -> str:
        ffi, capacity = self.library.ffi, _TEXT_BYTES
        for _ in range(2):
            buffer = ffi.new("char[]", capacity)
            length = read(self._pointer, index, buffer, capacity)
            if length < capacity:
                break
            capacity = length + 1
        return bytes(ffi.string(buffer)).decode("utf-8", "replace")
