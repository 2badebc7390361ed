"""Two implementations that share no code, one set of weights: llama.cpp's F32 logits and transformers' fp32 ones choose
the same tokens, and where they would not the two best logits are as close as the rounding noise between them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sled_llamacpp import Model
from sled_testkit.exactness import SENTENCES, decode_alone
from sled_verifier.engine.base import Engine, Logits, StepItem
from sled_verifier.engine.llamacpp import LlamaCppEngine
from sled_verifier.engine.torch_engine import TorchEngine

pytestmark = pytest.mark.models

TOKENS = 16
MOST_DEVIATION = 0.2
"""Of logits of about 20: llama.cpp keeps keys and values in 16 bits."""


def rows(engine: Engine, tokens: tuple[int, ...]) -> Logits:
    (found,) = engine.step([StepItem(0, 0, tokens, len(tokens))])
    engine.truncate(0, 0)
    return found


def test_the_argmaxes_are_the_same(smollm2_gguf: Path, smollm2_folder: Path) -> None:
    # One thread each: two OpenMP runtimes in one process wait for each other's spinning threads.
    sizes = {"slots": 1, "context_tokens": 256, "threads": 1}
    llama = LlamaCppEngine(smollm2_gguf, model_name="llama.cpp", **sizes)
    with Model(smollm2_gguf, vocab_only=True) as model:
        prompts = [tuple(model.vocabulary.encode(s, special=False)) for s in SENTENCES[:8]]
    references = [decode_alone(llama, prompt, TOKENS) for prompt in prompts]
    torch = TorchEngine(smollm2_folder, smollm2_gguf, model_name="torch", **sizes)
    assert torch.info.tokenizer_fingerprint == llama.info.tokenizer_fingerprint
    assert torch.info.end_tokens == llama.info.end_tokens
    llama.close()
    compared = flips = 0
    largest_deviation = largest_gap = 0.0
    for reference in references:
        tokens = reference.prompt + reference.output
        theirs = reference.rows
        ours = rows(torch, tokens)[len(reference.prompt) - 1 :]
        largest_deviation = max(largest_deviation, float(np.abs(ours - theirs).max()))
        differing = ours.argmax(1) != theirs.argmax(1)
        best = np.sort(ours[differing], axis=1)[:, -2:]
        compared += len(ours)
        flips += int(differing.sum())
        largest_gap = max(largest_gap, float((best[:, 1] - best[:, 0]).max(initial=0.0)))
    print(
        f"{compared} positions, {flips} other argmaxes, largest gap of one {largest_gap:.2g}; "
        f"largest deviation of a logit {largest_deviation:.2g}"
    )
    assert largest_deviation < MOST_DEVIATION
    assert largest_gap <= 2 * largest_deviation
    assert flips <= compared // 100
