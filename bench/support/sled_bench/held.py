"""Holds a target to known texts: a step computes what it always does, and then the text's token is made the most likely one.

In bf16 the same text does not come out twice: logits depend on the batch, and where two tokens are nearly equal the
argmax goes either way. Held to one text, every arm of a bench writes the same tokens, recorded drafts stay of use, and
places where the target would have gone another way are counted with the margin between the two logits. That is done in one
step of eight: finding the largest of 150,000 logits takes a processor a millisecond a row, and steps with drafts have most rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

from sled_bench.trace import Trace
from sled_verifier.engine.base import Engine, Logits, StepItem

CERTAIN = 1e4
COUNTED_STEPS = 8
"""One step of so many is looked at."""


@dataclass(slots=True)
class Held:
    """The texts by their prompts, and what was counted."""

    texts: dict[tuple[int, ...], tuple[int, ...]]
    places: int = 0
    steps: int = 0
    margins: list[float] = field(default_factory=list)

    @classmethod
    def to(cls, trace: Trace) -> Held:
        return cls({text.prompt: text.tokens for text in trace.texts})

    def text_of(self, tokens: Sequence[int]) -> tuple[int, tuple[int, ...]] | None:
        """Length of the prompt that these tokens begin with, and the text that follows it."""
        for prompt, text in self.texts.items():
            if tuple(tokens[: len(prompt)]) == prompt:
                return len(prompt), text
        return None

    def begin_step(self) -> None:
        """Another step has its logits."""
        self.steps += 1

    def row(self, row: Any, token: int, counted: bool) -> None:
        """Make `token` certain in this row of logits."""
        if counted and self.steps % COUNTED_STEPS == 0:
            best = int(row.argmax())
            self.places += 1
            if best != token:
                self.margins.append(float(row[best] - row[token]))
        row[token] = CERTAIN

    def rows(self, rows: Any, written: int, text: Sequence[int], draft: Sequence[int]) -> None:
        """The rows of one sequence, whose draft follows `written` tokens of its text; what follows a wrong draft token
        does not matter.
        """
        for place, row in enumerate(rows):
            at = written + place
            if at >= len(text):
                return
            # Rows at the end of a prompt may be of a part of it.
            self.row(row, text[at], counted=at > 0)
            if place < len(draft) and draft[place] != text[at]:
                return


def hold_vllm(worker: Any, held: Held) -> None:
    """To be called in vLLM's worker: put `held` between its model and its sampler."""
    runner = worker.model_runner
    sample = runner._sample

    def held_sample(runner: Any, logits: Any, metadata: Any) -> Any:
        batch = runner.input_batch
        counts = metadata.num_draft_tokens if metadata else [0] * len(batch.req_ids)
        drafted = metadata.draft_token_ids.tolist() if metadata else []
        held.begin_step()
        row = start = 0
        for index, (request_id, count) in enumerate(zip(batch.req_ids, counts, strict=True)):
            prompt = tuple(runner.requests[request_id].prompt_token_ids)
            text = held.texts.get(prompt)
            if text is not None:
                written = int(batch.num_tokens_no_spec[index]) - len(prompt)
                part = drafted[start : start + count]
                held.rows(logits[row : row + count + 1], written, text, part)
            row += count + 1
            start += count
        return sample(logits, metadata)

    runner._sample = MethodType(held_sample, runner)


class HeldEngine:
    """An `Engine` whose argmaxes are those of the texts."""

    def __init__(self, engine: Engine, held: Held) -> None:
        self._engine = engine
        self._held = held
        self._tokens: list[list[int]] = [[] for _ in range(engine.info.slots)]
        self.info = engine.info

    def step(self, items: Sequence[StepItem]) -> list[Logits]:
        """See `Engine.step`."""
        rows = self._engine.step(items)
        self._held.begin_step()
        for item, part in zip(items, rows, strict=True):
            tokens = self._tokens[item.slot]
            tokens.extend(item.tokens)
            known = self._held.text_of(tokens) if item.logit_rows else None
            if known is None:
                continue
            written = len(tokens) - item.logit_rows + 1 - known[0]
            if written >= 0:
                self._held.rows(part, written, known[1], item.tokens[1 - item.logit_rows :])
        return rows

    def truncate(self, slot: int, length: int) -> None:
        """See `Engine.truncate`."""
        self._engine.truncate(slot, length)
        del self._tokens[slot][length:]

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See `Engine.copy_prefix`."""
        self._engine.copy_prefix(source, target, length)
        self._tokens[target] = self._tokens[source][:length]

    def tokenizer_gguf(self) -> bytes:
        """See `Engine.tokenizer_gguf`."""
        return self._engine.tokenizer_gguf()

    def close(self) -> None:
        """See `Engine.close`."""
        self._engine.close()
