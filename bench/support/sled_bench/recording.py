"""Texts of a target with the drafts that a draft model makes along them, recorded once and kept in the user's cache.

A greedy draft after the first i tokens of a text is the draft model's own continuation. As long as it agrees with the
text, the following drafts are its ends; so one pass over the text gives the drafter's choice at every place, and only
from the places where it differs the rest must be written token by token.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sled_bench.folders import CACHE, hugging_face_folder, run_json
from sled_bench.models import BenchModel
from sled_bench.trace import ACCEPTANCE, DRAFT_TOKENS, Text, Trace, made_up, write
from sled_llamacpp import Chunk, Context, Model

HERE = Path(__file__).resolve().parent
VLLM_ALONE = HERE / "vllm_alone.py"
SLOTS = 16
CONTEXT = 512
FEWEST_TOKENS = 40
"""A text that ends earlier is left out."""


def own_prompts() -> list[str]:
    """The bench's prompts."""
    return [line for line in (HERE / "prompts.txt").read_text("utf-8").splitlines() if line]


def recorded(
    target: BenchModel, drafter: BenchModel | None, prompts: Sequence[str], tokens: int
) -> Path:
    """The file of the target's greedy texts in bf16 on vLLM; without a drafter the drafts are made up from the texts."""
    about = [target.name, drafter.name if drafter else ACCEPTANCE, list(prompts), tokens]
    name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    file = CACHE / "traces" / f"{name}.json"
    if not file.exists():
        write(_record(target, drafter, prompts, tokens), file)
    return file


def _record(
    target: BenchModel, drafter: BenchModel | None, prompts: Sequence[str], tokens: int
) -> Trace:
    with Model(target.gguf, vocab_only=True) as model:
        ends, size = set(model.vocabulary.end_tokens), model.vocabulary.size
    asked = encoded(target, prompts)
    request: dict[str, Any] = {"model": str(hugging_face_folder(target)), "slots": 64}
    request |= {"prompts": asked, "tokens": tokens, "texts": True}
    texts = [_until_end(text, ends) for text in run_json(VLLM_ALONE, request)]
    pairs = [(p, t) for p, t in zip(asked, texts, strict=True) if len(t) >= FEWEST_TOKENS]
    if drafter is None:
        own, written = zip(*pairs, strict=True)
        return made_up(target.name, own, written, ACCEPTANCE, size)
    with (
        Model(drafter.gguf) as model,
        Context(model, slots=SLOTS, context_tokens=CONTEXT, threads=2, exact=False) as context,
    ):
        made = [_drafted(context, prompt, text) for prompt, text in pairs]
    return Trace(target.name, drafter.name, tuple(made))


def encoded(target: BenchModel, prompts: Sequence[str]) -> list[list[int]]:
    """The prompts as chats, in the target's tokens."""
    with Model(target.gguf, vocab_only=True) as model:
        words = model.vocabulary
        return [words.encode(_chat(p), special=True, add_bos=False) for p in prompts]


def _chat(prompt: str) -> str:
    return f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"


def _until_end(text: Sequence[int], ends: set[int]) -> list[int]:
    stop = next((n for n, token in enumerate(text) if token in ends), len(text))
    return list(text[:stop])


def _drafted(context: Context, prompt: Sequence[int], text: Sequence[int]) -> Text:
    for slot in range(SLOTS):
        context.truncate(slot, 0)
    fed = (*prompt, *text[:-1])
    rows = context.decode([Chunk(0, fed, len(text))])[0]
    first = [_choice(row) for row in rows]
    off = [place for place, (token, _) in enumerate(first) if token != text[place]]
    tails = {}
    for start in range(0, len(off), SLOTS - 1):
        part = off[start : start + SLOTS - 1]
        tails |= _continued(context, len(prompt), part, [first[place][0] for place in part])
    drafts, confidences = [], []
    for at in range(len(text)):
        stop = next((place for place in off if place >= at), len(text))
        draft = [*first[at : stop + 1], *tails.get(stop, [])][:DRAFT_TOKENS]
        drafts.append(tuple(token for token, _ in draft))
        confidences.append(tuple(round(sure, 4) for _, sure in draft))
    return Text(tuple(prompt), tuple(text), tuple(drafts), tuple(confidences))


def _continued(
    context: Context, prompt_tokens: int, places: Sequence[int], tokens: Sequence[int]
) -> dict[int, list[tuple[int, float]]]:
    """The drafter's own continuations after one token that is not the text's, at these places of slot 0's text."""
    tails: dict[int, list[tuple[int, float]]] = {place: [] for place in places}
    for slot, place in enumerate(places, start=1):
        context.truncate(slot, 0)
        context.copy_prefix(0, slot, prompt_tokens + place)
    last = list(tokens)
    for _ in range(DRAFT_TOKENS - 1):
        chunks = [Chunk(slot, (token,), 1) for slot, token in enumerate(last, start=1)]
        chosen = [_choice(rows[0]) for rows in context.decode(chunks)]
        for place, choice in zip(places, chosen, strict=True):
            tails[place].append(choice)
        last = [token for token, _ in chosen]
    return tails


def _choice(row: NDArray[np.float32]) -> tuple[int, float]:
    """The most likely token and its probability."""
    token = int(row.argmax())
    return token, float(1 / np.exp(row - row[token]).sum(dtype=np.float64))
