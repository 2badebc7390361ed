"""The embedded engine: GGUF models on llama.cpp. Binds `sled_llamacpp` to the Engine protocol;
computes nothing itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from sled_llamacpp import Chunk, Context, DecodeError, Library, LlamaCppError, Model
from sled_llamacpp.gguf_header import read_gguf_header
from sled_llamacpp.microbatch import Rules
from sled_verifier.engine.base import EngineError, EngineInfo, Logits, StepItem
from sled_verifier.engine.llamacpp_exactness import exactness_of


class LlamaCppEngine:
    """A GGUF model with `slots` sequences on llama.cpp. Implements
    `sled_verifier.engine.base.Engine`.

    Logits are bit for bit independent of the batch when `info.exactness` is `bit-invariant`
    (docs/adr/0003): that is claimed only for weight types where it was measured, and is checked on
    this machine when the engine starts.

    Args:
        path: the GGUF file.
        model_name: name under which the model is served.
        threads: compute threads.
        context_tokens: tokens one sequence may hold.
        slots: sequences resident at once.
        max_step_tokens: tokens one step may take over all sequences.
        library: another llama.cpp shared object than the wheel's.

    Raises:
        EngineError: the library, the file or the sizes cannot be used; the message says which.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        model_name: str,
        threads: int = 2,
        context_tokens: int = 2304,
        slots: int = 8,
        max_step_tokens: int = 256,
        library: str | os.PathLike[str] | None = None,
    ) -> None:
        try:
            header = read_gguf_header(path)
            self._model = Model(path, library=Library.load(library))
            try:
                self._context = Context(
                    self._model,
                    slots=slots,
                    context_tokens=context_tokens,
                    threads=threads,
                    rules=Rules(),
                )
                exactness = exactness_of(header.weight_types, self._context)
            except BaseException:
                self._model.close()
                raise
        except LlamaCppError as error:
            raise EngineError(str(error)) from error
        self._vocabulary_file = header.vocabulary
        vocabulary = self._model.vocabulary
        self.info = EngineInfo(
            model_name=model_name,
            engine="llamacpp",
            vocab_size=vocabulary.size,
            context_tokens=context_tokens,
            slots=slots,
            max_step_tokens=max_step_tokens,
            tokenizer_fingerprint=vocabulary.fingerprint(),
            end_tokens=vocabulary.end_tokens,
            exactness=exactness,
            rectangular=True,
        )

    def step(self, items: Sequence[StepItem]) -> list[Logits]:
        """See `Engine.step`. A failed step empties its slots."""
        slots = tuple(item.slot for item in items)
        total = sum(len(item.tokens) for item in items)
        if total > self.info.max_step_tokens:
            raise EngineError(
                f"a step of {total} tokens; allowed: {self.info.max_step_tokens}", slots
            )
        try:
            for item in items:
                held = self._context.length(item.slot)
                if held != item.start_position:
                    raise EngineError(
                        f"slot {item.slot} holds {held} tokens, not {item.start_position}",
                        slots,
                    )
            return self._context.decode(
                [Chunk(item.slot, item.tokens, item.logit_rows) for item in items]
            )
        except DecodeError as error:
            raise EngineError(str(error), error.slots) from error
        except LlamaCppError as error:
            raise EngineError(str(error), slots) from error

    def truncate(self, slot: int, length: int) -> None:
        """See `Engine.truncate`."""
        try:
            self._context.truncate(slot, length)
        except LlamaCppError as error:
            raise EngineError(str(error), (slot,)) from error

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See `Engine.copy_prefix`."""
        try:
            self._context.copy_prefix(source, target, length)
        except LlamaCppError as error:
            raise EngineError(str(error), (target,)) from error

    def tokenizer_gguf(self) -> bytes:
        """See `Engine.tokenizer_gguf`."""
        return self._vocabulary_file

    def abort(self) -> None:
        """End the running step with EngineError; may be called from any thread (a shutdown that
        cannot wait).
        """
        self._context.abort()

    def close(self) -> None:
        """See `Engine.close`."""
        self._context.close()
        self._model.close()
