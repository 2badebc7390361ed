"""The target model alone: one sequence, one token a step, no drafts, no SLED between.

This is what every text of the demonstration is compared with, so it must share nothing with the
path that it checks but the engine itself: no batcher, no acceptance, no sampling code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sled_verifier.engine.base import Engine, Logits, StepItem

PROMPT_CHUNK_TOKENS = 48
SLOT = 0


@dataclass(frozen=True, slots=True)
class OwnText:
    """What the target writes after a prompt."""

    prompt_tokens: tuple[int, ...]
    tokens: tuple[int, ...]
    """Without the end token."""
    margins: tuple[float, ...]
    """Distance in logits from each token (the end token too) to the runner-up."""
    runners_up: tuple[int, ...]
    ended: bool
    """True when an end token came; False at the limit."""


def write_alone(
    engine: Engine,
    prompt: Sequence[int],
    max_tokens: int,
    on_token: Callable[[], None] = lambda: None,
) -> OwnText:
    """Greedy decoding, the engine's slot 0 to itself: always the token with the largest logit, the
    lowest id of equals.

    Raises:
        EngineError: the engine failed.
    """
    tokens: list[int] = []
    margins: list[float] = []
    runners_up: list[int] = []
    ended = False
    engine.truncate(SLOT, 0)
    logits = _read(engine, prompt)
    while len(tokens) < max_tokens:
        token, runner_up = _best_two(logits)
        margins.append(float(logits[token] - logits[runner_up]))
        runners_up.append(runner_up)
        if token in engine.info.end_tokens:
            ended = True
            break
        tokens.append(token)
        on_token()
        if len(tokens) < max_tokens:
            position = len(prompt) + len(tokens) - 1
            logits = engine.step([StepItem(SLOT, position, (token,), 1)])[0][0]
    engine.truncate(SLOT, 0)
    return OwnText(tuple(prompt), tuple(tokens), tuple(margins), tuple(runners_up), ended)


def _read(engine: Engine, prompt: Sequence[int]) -> Logits:
    """Logits of the token after the prompt."""
    size = min(PROMPT_CHUNK_TOKENS, engine.info.max_step_tokens)
    rows: list[Logits] = []
    for start in range(0, len(prompt), size):
        chunk = tuple(prompt[start : start + size])
        last = start + len(chunk) == len(prompt)
        rows = engine.step([StepItem(SLOT, start, chunk, int(last))])
    logits: Logits = rows[0][-1]
    return logits


def _best_two(logits: Logits) -> tuple[int, int]:
    best = int(np.argmax(logits))
    others = logits.copy()
    others[best] = -np.inf
    return best, int(np.argmax(others))
