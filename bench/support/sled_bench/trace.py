"""Texts of a target with drafts for each of their places, made up from the texts with a stated acceptance.

A device's drafting costs a bench nothing when its drafts are known beforehand: what is measured is the
server.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

DRAFT_TOKENS = 8
ACCEPTANCE = 0.79
"""Of each draft token: about what Qwen2.5-Coder 0.5B reaches for 1.5B, greedy."""


@dataclass(frozen=True, slots=True)
class Text:
    """One greedy text of the target. `drafts[i]` and `confidences[i]` [DRAFT_TOKENS] follow the first i
    tokens of it.
    """

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    drafts: tuple[tuple[int, ...], ...]
    confidences: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """Texts of one target with the drafts of one drafter."""

    target: str
    drafter: str
    texts: tuple[Text, ...]

    def acceptance(self) -> list[float]:
        """The share of drafts whose first 1, 2, ... tokens are all the target's own."""
        right = np.zeros(DRAFT_TOKENS)
        count = 0
        for text in self.texts:
            for at in range(len(text.tokens) - DRAFT_TOKENS):
                own = text.tokens[at : at + DRAFT_TOKENS]
                agree = np.array(own) == np.array(text.drafts[at])
                right += np.cumprod(agree)
                count += 1
        return [float(share) for share in right / count]


def made_up(
    target: str,
    prompts: Sequence[Sequence[int]],
    texts: Sequence[Sequence[int]],
    acceptance: float,
    vocab_size: int,
) -> Trace:
    """Drafts that are the text itself with each token wrong with probability 1 - `acceptance`; without confidences."""
    made = []
    for number, (prompt, tokens) in enumerate(zip(prompts, texts, strict=True)):
        rng = random.Random(number)
        drafts = []
        for at in range(len(tokens)):
            right = [*tokens[at : at + DRAFT_TOKENS]]
            right += [0] * (DRAFT_TOKENS - len(right))
            drafts.append(
                tuple(t if rng.random() < acceptance else (t + 1) % vocab_size for t in right)
            )
        made.append(Text(tuple(prompt), tuple(tokens), tuple(drafts), ()))
    return Trace(target, f"made up, {acceptance:.2f} right", tuple(made))


def drawn(count: int, tokens: int, vocab_size: int) -> Trace:
    """Texts of random tokens, for engines that write whatever they are told."""
    rng = random.Random(1)
    texts = [[rng.randrange(vocab_size) for _ in range(tokens)] for _ in range(count)]
    return made_up("random texts", [[1]] * count, texts, ACCEPTANCE, vocab_size)


def write(trace: Trace, file: Path) -> None:
    """Keep a trace."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(trace)), encoding="utf-8")


def read(file: Path) -> Trace:
    """A trace that was kept."""
    data = json.loads(file.read_text(encoding="utf-8"))
    texts = tuple(
        Text(
            tuple(text["prompt"]),
            tuple(text["tokens"]),
            tuple(map(tuple, text["drafts"])),
            tuple(map(tuple, text["confidences"])),
        )
        for text in data["texts"]
    )
    return Trace(data["target"], data["drafter"], texts)
