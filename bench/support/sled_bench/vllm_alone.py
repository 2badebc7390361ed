"""vLLM by itself: the texts that it writes, and what a token of them costs. Runs in the engines' environment.

Reads a request as JSON, answers with a line RESULT. Imports nothing of SLED.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.engine.llm_engine import LLMEngine


def main() -> None:
    request = json.load(sys.stdin)
    engine = LLMEngine.from_engine_args(
        EngineArgs(
            model=request["model"],
            dtype="bfloat16",
            seed=0,
            disable_log_stats=True,
            skip_tokenizer_init=True,
            generation_config="vllm",
            enforce_eager=True,
            max_model_len=512,
            max_num_seqs=request["slots"],
            max_num_batched_tokens=1024,
            enable_prefix_caching=True,
            async_scheduling=False,
            **request.get("arguments", {}),
        )
    )
    prompts, tokens = request["prompts"], request["tokens"]
    if request.get("texts"):
        texts = written(engine, prompts, tokens)
        answer: Any = texts
    else:
        # The prompts' keys and values are in the cache from here on.
        written(engine, prompts, 2)
        rows = [window(engine, prompts, tokens, load) for load in request["loads"]]
        answer = rows
    print("RESULT" + json.dumps(answer), flush=True)
    os._exit(0)


def written(engine: Any, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """Greedy texts, all at once."""
    add(engine, prompts, tokens)
    texts: dict[str, list[int]] = {}
    while engine.has_unfinished_requests():
        for one in engine.step():
            texts[one.request_id] = list(one.outputs[0].token_ids)
    return [texts[str(n)] for n in range(len(prompts))]


def add(engine: Any, prompts: list[list[int]], tokens: int) -> None:
    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
    for n, prompt in enumerate(prompts):
        engine.add_request(str(n), {"prompt_token_ids": prompt}, params)


def window(engine: Any, prompts: list[list[int]], tokens: int, load: int) -> dict[str, float]:
    """So many sequences decoding together, from when all have a token until the first one is done."""
    add(engine, [prompts[n % len(prompts)] for n in range(load)], tokens)
    lengths: dict[str, int] = {}
    while len(lengths) < load:
        step(engine, lengths)
    first, cpu, wall, steps = dict(lengths), time.process_time(), time.monotonic(), 0
    while not any(length >= tokens for length in lengths.values()):
        step(engine, lengths)
        steps += 1
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    made = sum(lengths.values()) - sum(first.values())
    while engine.has_unfinished_requests():
        engine.step()
    return {"load": load, "tokens": made, "cpu": cpu, "wall": wall, "steps": steps}


def step(engine: Any, lengths: dict[str, int]) -> None:
    for one in engine.step():
        lengths[one.request_id] = len(one.outputs[0].token_ids)


if __name__ == "__main__":
    main()
