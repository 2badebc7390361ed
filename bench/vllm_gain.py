"""What drafts gain on the vLLM backend: the same sequences with and without drafts, interleaved in one process.

    python bench/vllm_gain.py --model FOLDER --vocabulary FILE.gguf [--dtype bfloat16]

The drafts are synthetic: the greedy text recorded first, each token replaced with probability 1 - ACCEPTANCE, so the
figure is the verifier's gain at that acceptance, without any device's time. "Plain" is the same backend with empty
drafts: one token a step and sequence.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import subprocess
import sys
import time
from array import array
from collections.abc import Sequence
from pathlib import Path

from sled_protocol.prefix import prefix_hash
from sled_speculation.sampling import SamplingParams
from sled_verifier.limits import Limits
from sled_verifier.rounds import TOKEN_ARRAY, DraftRequest, OpenRequest
from sled_verifier.vllm.backend import VllmBackend
from sled_verifier.vllm.launch import load_runtime
from sled_verifier.vllm.settings import VllmSettings

ACCEPTANCE = 0.79
"""Per token: measured for Qwen2.5-Coder 0.5B drafting for 1.5B, greedy."""
LOADS = (1, 4, 8)
PROMPT_TOKENS = 32
RESULTS = Path(__file__).parent / "results" / "vllm_gain.json"


async def generate(
    backend: VllmBackend, prompt: list[int], tokens: int, text: Sequence[int], draft_tokens: int
) -> list[int]:
    """One sequence; without a known `text` it is decoded plainly."""
    request = OpenRequest("bench", array(TOKEN_ARRAY, prompt), array(TOKEN_ARRAY), SamplingParams())
    key = (await backend.open(request)).key
    rng = random.Random(prompt[0])
    output: list[int] = []
    while len(output) < tokens:
        right = text[len(output) : len(output) + draft_tokens]
        draft = tuple(t if rng.random() < ACCEPTANCE else (t + 1) % 1000 for t in right)
        verdict = await backend.verify(
            key, DraftRequest(len(output), prefix_hash([*prompt, *output]), draft, (), 600.0)
        )
        output += [*draft[: verdict.accepted], verdict.next_token]
    backend.close(key)
    return output[:tokens]


async def measure(
    backend: VllmBackend, prompts: list[list[int]], options: argparse.Namespace
) -> dict[str, float]:
    """Tokens a second at each load, plain and with drafts by turns, best of the repetitions."""
    tokens = options.tokens
    texts = [
        await generate(backend, prompt, tokens + options.draft_tokens, (), 0) for prompt in prompts
    ]
    figures: dict[str, float] = {}
    differing = 0
    for load in LOADS:
        best = {"plain": 0.0, "drafts": 0.0}
        for _ in range(options.repetitions):
            for kind in best:
                known = texts if kind == "drafts" else [[] for _ in texts]
                started = time.monotonic()
                outputs = await asyncio.gather(
                    *(
                        generate(backend, prompts[n], tokens, known[n], options.draft_tokens)
                        for n in range(load)
                    )
                )
                rate = load * tokens / (time.monotonic() - started)
                best[kind] = max(best[kind], rate)
                differing += sum(o != texts[n][:tokens] for n, o in enumerate(outputs))
        name = f"at_{load}_sequence" + ("s" if load > 1 else "")
        figures[f"plain_tokens_per_second_{name}"] = round(best["plain"], 2)
        figures[f"drafts_tokens_per_second_{name}"] = round(best["drafts"], 2)
        figures[f"ratio_{name}"] = round(best["drafts"] / best["plain"], 3)
        print(f"{load} sequences: ratio {best['drafts'] / best['plain']:.2f}", flush=True)
    figures["texts_differing"] = differing
    return figures


async def run(options: argparse.Namespace) -> dict[str, float]:
    settings = VllmSettings(
        model_path=options.model,
        tokenizer_path=options.vocabulary,
        model_name="bench",
        dtype=options.dtype,
        context_tokens=512,
        slots=max(LOADS),
        step_tokens=256,
        max_draft_tokens=options.draft_tokens,
        kv_cache_gib=1,
    )
    limits = Limits(max_draft_tokens=options.draft_tokens)
    rng = random.Random(0)
    prompts = [
        [rng.randrange(1000, 30_000) for _ in range(PROMPT_TOKENS)] for _ in range(max(LOADS))
    ]
    async with await VllmBackend.load(lambda: load_runtime(settings), limits) as backend:
        return await measure(backend, prompts, options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--vocabulary", type=Path, required=True)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--draft-tokens", type=int, default=4)
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    figures = asyncio.run(run(options))
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    document = {
        **figures,
        "kind": "measured",
        "note": f"drafts are synthetic: right with probability {ACCEPTANCE} a token, "
        f"{options.draft_tokens} a round, {options.dtype}; model folder {options.model.name}",
        "machine": f"{platform.machine()}, {platform.system()}",
        "commit": git.stdout.strip(),
        "command": "python bench/vllm_gain.py " + f"--dtype {options.dtype}",
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(document, indent=2) + "\n")
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
