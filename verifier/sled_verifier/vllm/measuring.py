"""What a step costs on a runtime, by running it: for the load policy at the start, and as a warm-up.
Must not interpret anything.
"""

from __future__ import annotations

import statistics
from array import array

from sled_speculation.sampling import SamplingParams
from sled_verifier.rounds import TOKEN_ARRAY
from sled_verifier.vllm.runtime import DraftingRuntime, Start, StepOrder, Trial

REPEATS = 3


def measure_step(
    runtime: DraftingRuntime, sequences: int, tokens: int, context_tokens: int
) -> float:
    """Median seconds of a step that judges `tokens - 1` draft tokens of each of so many sequences,
    each with `context_tokens` before them. Call it in the runtime's thread, with no sequence taken in.

    Raises:
        ValueError: the runtime has no room for that.
        EngineError: see `DraftingRuntime.run`.
    """
    info = runtime.info
    longest = context_tokens + 1 + REPEATS * tokens
    if not 0 < sequences <= info.slots or not tokens > 0 or longest >= info.context_tokens:
        raise ValueError(
            f"{sequences} sequences of {longest} tokens do not fit {info.slots} of "
            f"{info.context_tokens}"
        )
    if sequences * tokens > info.max_step_tokens:
        raise ValueError(f"a step of {sequences * tokens} tokens; the runtime's limit is less")
    keys = [-1 - index for index in range(sequences)]
    starts = tuple(_start(key, context_tokens, info.vocab_size) for key in keys)
    report = runtime.run(StepOrder(start=starts))
    while report.computing:
        report = runtime.run(StepOrder())
    # Hardly ever what the target would choose: a rejected draft costs what an accepted one does.
    draft = (info.vocab_size - 1,) * (tokens - 1)
    trials = StepOrder(trials=tuple(Trial(key, draft, ()) for key in keys))
    seconds = [runtime.run(trials).seconds for _ in range(REPEATS)]
    runtime.run(StepOrder(stop=tuple(keys)))
    return statistics.median(seconds)


def _start(key: int, context_tokens: int, vocab_size: int) -> Start:
    """No two prompts share a prefix, which would be computed only once."""
    prompt = ((7 * place - 31 * key) % vocab_size for place in range(max(1, context_tokens)))
    return Start(key, array(TOKEN_ARRAY, prompt), SamplingParams())
