"""In fp32 plain vLLM, which the backend is compared with, writes what transformers' `generate` writes."""

from __future__ import annotations

from pathlib import Path

from sled_testkit.torch_models import own_greedy_apart

PLAIN = 8
"""Of the references, those without a repetition penalty."""


def test_vllm_writes_the_oracles_texts(
    model: tuple[Path, Path], prompts: list[list[int]], references: list[list[int]]
) -> None:
    expected = own_greedy_apart(model[0], prompts[:PLAIN], len(references[0]))
    assert references[:PLAIN] == expected
    assert len({tuple(text) for text in expected}) == PLAIN
