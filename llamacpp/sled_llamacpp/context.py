"""Key-value caches of several sequences over one model, and the forward passes that fill them.

With `exact` (the default) logits are bit for bit the same whatever the batch, the chunking and the
neighbours: see `microbatch` and docs/adr/0003. Must not know what the tokens are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sled_llamacpp.declarations import DECODE_ABORTED, FLASH_ATTENTION_ON, MAX_SLOTS
from sled_llamacpp.errors import ContextError, DecodeAborted, DecodeError
from sled_llamacpp.microbatch import Call, Rules, plan_calls
from sled_llamacpp.model import Model

COMPANION_TOKEN: Final = 0
"""Fills the rows of a call that have no token of their own; forgotten after the call."""

_CELLS_STEP: Final = 256
"""llama.cpp rounds a stream's cells up to a multiple of this."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens appended to a slot; logits are wanted for the last `logit_rows` of them."""

    slot: int
    tokens: tuple[int, ...]
    logit_rows: int


class Context:
    """`slots` independent sequences of at most `context_tokens` tokens. Not thread-safe, but for
    `abort`.

    Args:
        model: loaded with weights; must outlive the context.
        slots: sequences that can be resident at once.
        context_tokens: tokens one slot may hold.
        threads: compute threads of a forward pass.
        exact: keep to the rules under which logits do not depend on the batch. False is faster for
            lone rows.
        rules: limits of one forward pass; `exact=False` lifts those that only serve exactness.

    Raises:
        ContextError: sizes that the model or the library does not allow, or memory that cannot be
            had.
    """

    def __init__(
        self,
        model: Model,
        *,
        slots: int,
        context_tokens: int,
        threads: int,
        exact: bool = True,
        rules: Rules | None = None,
    ) -> None:
        rules = rules or Rules()
        self._rules = (
            rules if exact else replace(rules, max_rows_per_slot=rules.max_rows, min_rows=1)
        )
        self._library = model.library
        self._model = model
        self.slots = slots
        self.context_tokens = context_tokens
        self.vocab_size = model.vocabulary.size
        self._check_sizes(threads)
        self._lengths = [0] * slots
        # Room for the companions of a full slot.
        spare = self._rules.max_rows_per_slot
        cells = -(-(context_tokens + spare) // _CELLS_STEP) * _CELLS_STEP
        self._abort_flag = self._library.ffi.new("char[2]")
        self._pointer = self._create(cells, threads)
        self._memory = self._library.api.llama_get_memory(self._pointer)
        self._batch = _Batch(self._library.ffi, self._rules.max_rows, slots)
        model.contexts.add(self)

    def length(self, slot: int) -> int:
        """Tokens that the slot holds."""
        self._check_slot(slot)
        return self._lengths[slot]

    def decode(self, chunks: Sequence[Chunk]) -> list[NDArray[np.float32]]:
        """Append every chunk to its slot; at most one chunk per slot.

        Returns one array [chunk.logit_rows, vocab_size] per chunk: row i holds the logits of the
        token that follows `tokens[len(tokens) - logit_rows + i]`.

        Raises:
            ContextError: a chunk that its slot cannot take; nothing was done.
            DecodeError: the library failed; the slots of all chunks were emptied.
        """
        self._check_chunks(chunks)
        work = {chunk.slot: _Work(chunk, self.vocab_size) for chunk in chunks}
        try:
            for call in plan_calls({c.slot: len(c.tokens) for c in chunks}, self._rules):
                self._run(call, work)
        except DecodeError as error:
            slots = tuple(chunk.slot for chunk in chunks)
            self._recover(slots)
            raise type(error)(str(error), slots) from error
        return [work[chunk.slot].logits for chunk in chunks]

    def truncate(self, slot: int, length: int) -> None:
        """Forget the slot's tokens from position `length` on; no cost in the model's size.

        Raises:
            ContextError: the slot holds fewer tokens.
        """
        self._check_slot(slot)
        if not 0 <= length <= self._lengths[slot]:
            raise ContextError(f"slot {slot} holds {self._lengths[slot]} tokens, not {length}")
        self._forget(slot, length)
        self._lengths[slot] = length

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Make the empty slot `target` hold the first `length` tokens of `source`, bit for bit.

        Raises:
            ContextError: `target` is not empty, or `source` holds fewer tokens.
        """
        self._check_slot(source)
        self._check_slot(target)
        if source == target or self._lengths[target]:
            raise ContextError(f"slot {target} is not an empty slot other than {source}")
        if not 0 <= length <= self._lengths[source]:
            raise ContextError(f"slot {source} holds {self._lengths[source]} tokens, not {length}")
        if length == 0:
            return
        # Between streams the library copies whole sequences only.
        self._library.api.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        self._lengths[target] = self._lengths[source]
        self.truncate(target, length)

    def abort(self) -> None:
        """End the running or the next `decode` with DecodeAborted; any thread may call it."""
        self._abort_flag[0] = b"!"

    def close(self) -> None:
        """Free the caches; closing twice is allowed."""
        if self._pointer is not None:
            self._library.api.llama_free(self._pointer)
            self._pointer = None

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, call: Call, work: dict[int, _Work]) -> None:
        rows = self._fill(call, work)
        status = self._library.api.llama_decode(self._pointer, self._batch.struct)
        if status:
            self._abort_flag[0] = b"\0"
            kind = DecodeAborted if status == DECODE_ABORTED else DecodeError
            raise kind(f"llama.cpp's decode returned {status} {self._library.last_complaint()}", ())
        for row, slot, target in rows:
            self._copy_logits(row, work[slot].logits[target])
        for offset, fed in enumerate(call.fed):
            slot = call.first_slot + offset
            if fed < call.rows:
                self._forget(slot, self._lengths[slot] + fed)
            if fed:
                self._lengths[slot] += fed
                work[slot].fed += fed

    def _recover(self, failed: tuple[int, ...]) -> None:
        for slot in failed:
            self._lengths[slot] = 0
        for slot, length in enumerate(self._lengths):
            self._forget(slot, length)  # of idle slots: companions of the failed call

    def _fill(self, call: Call, work: dict[int, _Work]) -> list[tuple[int, int, int]]:
        """Write the call into the batch; return (batch row, slot, logits row) of every row of
        interest.
        """
        wanted: list[tuple[int, int, int]] = []
        for offset, fed in enumerate(call.fed):
            slot, start = call.first_slot + offset, offset * call.rows
            tokens: tuple[int, ...] = ()
            if fed:
                item = work[slot]
                tokens = item.chunk.tokens[item.fed : item.fed + fed]
                skip = len(item.chunk.tokens) - item.chunk.logit_rows
                wanted += [
                    (start + i, slot, item.fed + i - skip)
                    for i in range(max(0, skip - item.fed), fed)
                ]
            self._batch.put(start, slot, self._lengths[slot], tokens, call.rows)
        total = call.rows * len(call.fed)
        self._batch.finish(total, self._logit_rows([row for row, _, _ in wanted], total))
        return wanted

    def _logit_rows(self, rows: list[int], total: int) -> list[int]:
        # The last layer runs over the rows whose logits are asked for: the rule against a single
        # row holds for them, too.
        if 0 < len(rows) < self._rules.min_rows <= total:
            spare = (row for row in range(total) if row not in rows)
            rows = rows + [next(spare) for _ in range(self._rules.min_rows - len(rows))]
        return rows

    def _copy_logits(self, row: int, target: NDArray[np.float32]) -> None:
        pointer = self._library.api.llama_get_logits_ith(self._pointer, row)
        if pointer == self._library.ffi.NULL:
            raise DecodeError(f"llama.cpp gave no logits for row {row}", ())
        data = self._library.ffi.buffer(pointer, 4 * self.vocab_size)
        target[:] = np.frombuffer(data, dtype=np.float32)

    def _forget(self, slot: int, length: int) -> None:
        if not self._library.api.llama_memory_seq_rm(self._memory, slot, length, -1):
            raise DecodeError(f"llama.cpp could not roll back slot {slot}", (slot,))

    def _create(self, cells: int, threads: int) -> Any:
        library, rules = self._library, self._rules
        params = library.api.llama_context_default_params()
        params.n_ctx = cells * self.slots
        params.n_batch = params.n_ubatch = params.n_outputs_max = rules.max_rows
        params.n_outputs_max_per_seq = 0
        params.n_seq_max = self.slots
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = FLASH_ATTENTION_ON
        params.kv_unified = False
        params.abort_callback = library.abort_callback
        params.abort_callback_data = self._abort_flag
        library.last_complaint()
        pointer = library.api.llama_init_from_model(self._model.pointer, params)
        if pointer == library.ffi.NULL:
            raise ContextError(f"no context of {self.slots} slots: {library.last_complaint()}")
        found = library.api.llama_n_ctx_seq(pointer), library.api.llama_n_ubatch(pointer)
        if found[0] < cells or found[1] < rules.max_rows:
            library.api.llama_free(pointer)
            raise ContextError(
                f"llama.cpp gave {found} cells and rows, not {cells, rules.max_rows}"
            )
        return pointer

    def _check_sizes(self, threads: int) -> None:
        if self._model.vocab_only:
            raise ContextError(f"{self._model.path.name} was loaded without weights")
        limits = (
            ("slots", self.slots, MAX_SLOTS),
            ("context_tokens", self.context_tokens, self._model.trained_context_tokens or 2**31),
            ("threads", threads, 512),
        )
        for name, value, most in limits:
            if not 1 <= value <= most:
                raise ContextError(f"{name} is {value}; allowed for this model: 1 to {most}")

    def _check_slot(self, slot: int) -> None:
        if self._pointer is None:
            raise ContextError("the context was closed")
        if not 0 <= slot < self.slots:
            raise ContextError(f"slot {slot} does not exist; there are {self.slots}")

    def _check_chunks(self, chunks: Sequence[Chunk]) -> None:
        if len({chunk.slot for chunk in chunks}) != len(chunks):
            raise ContextError("a slot appears twice in one step")
        for chunk in chunks:
            self._check_slot(chunk.slot)
            count = len(chunk.tokens)
            if not 0 <= chunk.logit_rows <= count or count == 0:
                raise ContextError(
                    f"slot {chunk.slot}: {chunk.logit_rows} logit rows of {count} tokens"
                )
            if self._lengths[chunk.slot] + count > self.context_tokens:
                raise ContextError(
                    f"slot {chunk.slot} holds {self._lengths[chunk.slot]} of "
                    f"{self.context_tokens} tokens and cannot take {count} more"
                )
            if min(chunk.tokens) < 0 or max(chunk.tokens) >= self.vocab_size:
                raise ContextError(
                    f"slot {chunk.slot}: a token id outside 0 to {self.vocab_size - 1}"
                )


class _Work:
    """A chunk on its way: how many of its tokens were fed, and the logits so far."""

    __slots__ = ("chunk", "fed", "logits")

    def __init__(self, chunk: Chunk, vocab_size: int) -> None:
        self.chunk = chunk
        self.fed = 0
        self.logits = np.empty((chunk.logit_rows, vocab_size), dtype=np.float32)


class _Batch:
    """The C batch struct over numpy memory that is reused for every call."""

    def __init__(self, ffi: Any, rows: int, slots: int) -> None:
        self._tokens = np.zeros(rows, np.int32)
        self._positions = np.zeros(rows, np.int32)
        self._counts = np.ones(rows, np.int32)
        self._slot_ids = np.arange(slots, dtype=np.int32)
        self._slot_pointers = np.zeros(rows, np.uintp)
        self._wanted = np.zeros(rows, np.int8)
        self.struct = ffi.new("struct llama_batch *")[0]
        self._owner = [
            ffi.from_buffer("int32_t[]", self._tokens),
            ffi.from_buffer("int32_t[]", self._positions),
            ffi.from_buffer("int32_t[]", self._counts),
            ffi.from_buffer("int8_t[]", self._wanted),
        ]
        self.struct.token, self.struct.pos, self.struct.n_seq_id, self.struct.logits = self._owner
        self.struct.seq_id = ffi.cast("int32_t **", self._slot_pointers.ctypes.data)

    def put(self, start: int, slot: int, position: int, tokens: tuple[int, ...], rows: int) -> None:
        end = start + rows
        self._tokens[start : start + len(tokens)] = tokens
        self._tokens[start + len(tokens) : end] = COMPANION_TOKEN
        self._positions[start:end] = np.arange(position, position + rows, dtype=np.int32)
        self._slot_pointers[start:end] = self._slot_ids.ctypes.data + 4 * slot

    def finish(self, rows: int, logit_rows: list[int]) -> None:
        self._wanted[:rows] = 0
        self._wanted[logit_rows] = 1
        self.struct.n_tokens = rows
