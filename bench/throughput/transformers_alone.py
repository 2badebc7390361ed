"""transformers' `generate`, with and without `assistant_model`. Runs in the engines' environment.

Reads a request as JSON, answers with a line RESULT. Imports nothing of SLED.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList
from transformers.utils import logging


class Clock(StoppingCriteria):
    """Ends nothing; notes how long the text is, when, and after how much processor time."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float, float]] = []

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        self.seen.append((input_ids.shape[1], time.process_time(), time.monotonic()))
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


def main() -> None:
    request = json.load(sys.stdin)
    logging.set_verbosity_error()
    torch.set_num_threads(request["threads"])
    target, assistant = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        if folder
        else None
        for folder in (request["model"], request.get("assistant"))
    )
    rows = [
        window(target, assistant, request["prompts"], request["tokens"], load)
        for load in request["loads"]
    ]
    print("RESULT" + json.dumps(rows), flush=True)


def window(
    target: Any, assistant: Any, prompts: list[list[int]], tokens: int, load: int
) -> dict[str, float]:
    """A batch from its first token to its last one; with an assistant `load` is 1, one text after another."""
    totals = {"load": load, "tokens": 0.0, "cpu": 0.0, "wall": 0.0}
    batches = (
        [[p] for p in prompts[:3]]
        if load == 1
        else [[prompts[n % len(prompts)] for n in range(load)]]
    )
    for batch in batches:
        clock = Clock()
        longest = max(map(len, batch))
        ids = torch.tensor([[0] * (longest - len(p)) + p for p in batch])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in batch])
        more = {"assistant_model": assistant} if assistant is not None else {}
        with torch.inference_mode():
            target.generate(
                ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                pad_token_id=0,
                stopping_criteria=StoppingCriteriaList([clock]),
                **more,
            )
        first, last = clock.seen[0], clock.seen[-1]
        totals["tokens"] += load * (last[0] - first[0])
        totals["cpu"] += last[1] - first[1]
        totals["wall"] += last[2] - first[2]
    return totals


if __name__ == "__main__":
    main()
