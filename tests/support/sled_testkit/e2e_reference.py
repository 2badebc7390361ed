"""The target model alone, in a batch of one: what every text of the fleet is compared with.

Why: the engine is the verifier's own, but nothing else is: no drafts, no batch, no network, no
Kubernetes. Must not share state with a verifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sled_edge.tokenizer import LlamaCppTokenizer
from sled_verifier.engine.base import StepItem
from sled_verifier.engine.llamacpp import LlamaCppEngine

_CHUNK = 32


class TargetAlone:
    """Greedy continuations of one GGUF model; results are kept."""

    def __init__(self, model: Path) -> None:
        self._engine = LlamaCppEngine(model, model_name="target", slots=1, context_tokens=1024)
        self._tokenizer = LlamaCppTokenizer.from_path(model)
        self._known: dict[tuple[int, ...], list[int]] = {}

    def continue_tokens(self, prompt: Sequence[int], count: int) -> list[int]:
        """The next `count` token ids, fewer when the text ends."""
        known = self._known.get(tuple(prompt), [])
        if len(known) < count:
            known = self._known[tuple(prompt)] = self._generate(prompt, count)
        return known[:count]

    def text(self, tokens: Sequence[int]) -> str:
        """Tokens as text."""
        return b"".join(self._tokenizer.piece(token) for token in tokens).decode("utf-8", "replace")

    def _generate(self, prompt: Sequence[int], count: int) -> list[int]:
        engine = self._engine
        engine.truncate(0, 0)
        position = 0
        for start in range(0, len(prompt) - 1, _CHUNK):
            chunk = tuple(prompt[start : min(start + _CHUNK, len(prompt) - 1)])
            engine.step([StepItem(0, position, chunk, 0)])
            position += len(chunk)
        output: list[int] = []
        token = prompt[-1]
        while len(output) < count:
            row = engine.step([StepItem(0, position, (token,), 1)])[0][0]
            position += 1
            token = int(row.argmax())
            if token in engine.info.end_tokens:
                break
            output.append(token)
        return output
