"""The compact reference engine: any causal model of transformers, ragged batches without padding, paged keys and
values. Binds `blocks`, `torch_attention` and `torch_model` to the Engine protocol.

In fp32 it is what the other backends are compared with: its greedy text is transformers' own `generate`,
token for token (tests/torch).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sled_verifier.engine.base import EngineError, EngineInfo, Logits, StepItem
from sled_verifier.engine.blocks import BLOCK_TOKENS, BlockTables
from sled_verifier.engine.gguf_vocabulary import read_vocabulary
from sled_verifier.engine.torch_attention import PagedPools, PagedStep, Segment
from sled_verifier.engine.torch_model import check_own, load_model

PROBE_TOKENS = 21
"""More than one block, and no whole number of them."""


class TorchEngine:
    """A Hugging Face folder with `slots` sequences on transformers. Implements
    `sled_verifier.engine.base.Engine`.

    Keys and values of `slots` x `context_tokens` tokens are reserved; sequences with a common prefix share
    its blocks.

    Args:
        folder: `config.json` and safetensors.
        vocabulary: a GGUF file of the same model, for its vocabulary.
        model_name: name under which the model is served.
        threads: compute threads.
        context_tokens: tokens one sequence may hold.
        slots: sequences resident at once.
        max_step_tokens: tokens one step may take over all sequences.
        dtype: float32, bfloat16 or float16.
        device: as torch names it: `cpu`, `cuda`, `cuda:1`.

    Raises:
        EngineError: the folder, the vocabulary or the sizes cannot be used, or the architecture is one whose
            text would not be the model's own; the message says which.
    """

    def __init__(
        self,
        folder: Path,
        vocabulary: Path,
        *,
        model_name: str,
        threads: int = 2,
        context_tokens: int = 2304,
        slots: int = 8,
        max_step_tokens: int = 256,
        dtype: str = "float32",
        device: str = "cpu",
    ) -> None:
        words = read_vocabulary(vocabulary)
        torch.set_num_threads(threads)
        self._model = load_model(folder, dtype=dtype, device=device, context_tokens=context_tokens)
        self._vocabulary_file = words.gguf
        self._tables = BlockTables(slots, context_tokens)
        self._pools = PagedPools(self._tables.count, BLOCK_TOKENS)
        self.info = EngineInfo(
            model_name=model_name,
            engine="torch",
            vocab_size=words.size,
            context_tokens=context_tokens,
            slots=slots,
            max_step_tokens=max_step_tokens,
            tokenizer_fingerprint=words.fingerprint,
            end_tokens=words.end_tokens,
            exactness="fp32" if dtype == "float32" else "approximate",
        )
        self._probe(dtype)

    def step(self, items: Sequence[StepItem]) -> list[Logits]:
        """See `Engine.step`. After a failure of the runtime its slots must be emptied."""
        self._check(items)
        slots = tuple(item.slot for item in items)
        try:
            with torch.inference_mode():
                rows = self._run(items)
        except (RuntimeError, LookupError, ValueError) as error:
            raise EngineError(f"torch: {' '.join(str(error).split())[:300]}", slots) from error
        return [rows[stop - item.logit_rows : stop] for stop, item in _row_ends(items)]

    def truncate(self, slot: int, length: int) -> None:
        """See `Engine.truncate`."""
        try:
            self._tables.truncate(slot, length)
        except (ValueError, IndexError) as error:
            raise EngineError(f"cannot truncate: {error}", (slot,)) from error

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See `Engine.copy_prefix`. Blocks are shared, and copied when one of the slots writes to them."""
        try:
            self._tables.share(source, target, length)
        except (ValueError, IndexError) as error:
            raise EngineError(f"cannot copy a prefix: {error}", (target,)) from error

    def tokenizer_gguf(self) -> bytes:
        """See `Engine.tokenizer_gguf`."""
        return self._vocabulary_file

    def close(self) -> None:
        """See `Engine.close`."""
        self._model = None
        self._pools = PagedPools(0, BLOCK_TOKENS)

    @property
    def blocks_used(self) -> int:
        """Blocks that hold keys and values."""
        return self._tables.used

    def _check(self, items: Sequence[StepItem]) -> None:
        slots = tuple(item.slot for item in items)
        total = sum(len(item.tokens) for item in items)
        if self._model is None:
            raise EngineError("the engine is closed")
        if len(set(slots)) != len(slots):
            raise EngineError("a step has two items of one slot", slots)
        if total > self.info.max_step_tokens:
            raise EngineError(
                f"a step of {total} tokens; allowed: {self.info.max_step_tokens}", slots
            )
        for item in items:
            held = self._tables.length(item.slot)
            if held != item.start_position:
                sentence = f"slot {item.slot} holds {held} tokens, not {item.start_position}"
                raise EngineError(sentence, slots)
            if not item.tokens or not 0 <= item.logit_rows <= len(item.tokens):
                raise EngineError(f"slot {item.slot}: unusable number of rows", slots)
            if held + len(item.tokens) > self.info.context_tokens:
                raise EngineError(f"slot {item.slot} would leave the context", slots)
            if not all(0 <= token < self.info.vocab_size for token in item.tokens):
                raise EngineError(f"slot {item.slot}: a token is outside the vocabulary", slots)

    def _run(self, items: Sequence[StepItem]) -> Logits:
        """The asked rows of logits of all items, one after another."""
        device = self._model.device
        places: list[int] = []
        cells: list[int] = []
        segments = []
        for item in items:
            self._pools.copy(self._tables.extend(item.slot, len(item.tokens)))
            cells += self._tables.cells(item.slot, item.start_position)
            start, length = len(places), self._tables.length(item.slot)
            places += range(item.start_position, length)
            table = torch.tensor(self._tables.table(item.slot), device=device)
            segments.append(Segment(start, len(places), length, table))
        step = PagedStep(self._pools, torch.tensor(cells, device=device), tuple(segments))
        tokens = [token for item in items for token in item.tokens]
        wanted = _wanted_rows(items)
        found = self._model(
            input_ids=torch.tensor([tokens], device=device),
            position_ids=torch.tensor([places], device=device),
            use_cache=False,
            logits_to_keep=torch.tensor(wanted or [0], device=device),
            paged_step=step,
        )
        rows: Logits = found.logits[0, : len(wanted)].float().cpu().numpy()
        return rows

    def _probe(self, dtype: str) -> None:
        """The same tokens with the model's own attention and with ours, in two pieces beside a neighbour."""
        vocab, count = self.info.vocab_size, min(PROBE_TOKENS, self.info.context_tokens)
        count = min(count, self.info.max_step_tokens - 1)
        tokens = [(7 + 31 * place) % vocab for place in range(count)]
        half = count // 2
        found = list(self.step([StepItem(0, 0, tuple(tokens[:half]), half)]))
        if not self._pools.layers:
            raise EngineError("the architecture does not use transformers' attention interface")
        rest = [StepItem(0, half, tuple(tokens[half:]), count - half)]
        if self.info.slots > 1:
            rest.insert(0, StepItem(1, 0, (tokens[-1],), 1))
        found.append(self.step(rest)[-1])
        joined: Any = torch.cat([torch.from_numpy(part) for part in found])
        for slot in range(min(2, self.info.slots)):
            self.truncate(slot, 0)
        if joined.shape[-1] != vocab:
            raise EngineError(
                f"the model has {joined.shape[-1]} token ids and the vocabulary file {vocab}"
            )
        check_own(self._model, tokens, joined, dtype)


def _wanted_rows(items: Sequence[StepItem]) -> list[int]:
    wanted: list[int] = []
    stop = 0
    for item in items:
        stop += len(item.tokens)
        wanted += range(stop - item.logit_rows, stop)
    return wanted


def _row_ends(items: Sequence[StepItem]) -> list[tuple[int, StepItem]]:
    """Each item with the end of its rows among all asked rows."""
    ends, stop = [], 0
    for item in items:
        stop += item.logit_rows
        ends.append((stop, item))
    return ends
