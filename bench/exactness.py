"""How often do logits differ between a sequence alone and the same sequence in mixed batches?

    python bench/exactness.py [--model NAME]... [--results DIR]

Every model runs the same sequences twice: alone, one token a step, and together with others in
mixed batches (chunked prefill, drafts of 0 to 16 tokens, rollback). Writes `exactness.json`: per
model the rows compared, and the share of rows whose logits are not the same bits and whose most
probable token is another one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "support")]

from sled_cli.models import ModelStore  # noqa: E402
from sled_llamacpp import Model  # noqa: E402
from sled_testkit.exactness import Crowd, Tally, decode_alone, long_text, prompts  # noqa: E402
from sled_verifier.engine.llamacpp import LlamaCppEngine  # noqa: E402

MODELS = (
    "smollm2-135m-f32",
    "smollm2-135m-q8_0",
    "smollm2-135m-q4_1",
    "smollm2-135m-q4_0",
    "qwen2.5-coder-0.5b-q4_k_m",
)
PROMPT_LENGTHS = (1, 5, 16, 47, 64, 130, 300, 520)
OUTPUT_TOKENS = 24
CONTEXT_TOKENS = 768
SEED = 3


def measure(name: str) -> tuple[Tally, str]:
    """Compare alone with together for one model of the catalogue; returns the engine's own claim,
    too.
    """
    path = ModelStore().fetch(f"catalog://{name}")
    with Model(path, vocab_only=True) as model:
        tokens = model.vocabulary.encode(long_text(60), special=False)
    alone = LlamaCppEngine(path, model_name=name, slots=1, context_tokens=CONTEXT_TOKENS)
    references = [
        decode_alone(alone, prompt, OUTPUT_TOKENS) for prompt in prompts(tokens, PROMPT_LENGTHS)
    ]
    alone.close()
    slots = len(references)
    engine = LlamaCppEngine(path, model_name=name, slots=slots, context_tokens=CONTEXT_TOKENS)
    crowd = Crowd(engine, references, SEED)
    crowd.load()
    crowd.cover(range(1, slots + 1), range(17))
    engine.close()
    return crowd.tally, engine.info.exactness


def processor() -> str:
    """Name of the processor and the number of its cores."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":")[1].strip() for line in text.splitlines() if "model name" in line]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def commit() -> str:
    """The commit that this tree stands on."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--model", action="append", help="name in the catalogue; default: a row per weight type"
    )
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    chosen = parser.parse_args()
    figures: dict[str, float | int | str] = {}
    print(f"{'model':28} {'claims':14} {'rows':>6} {'differ':>8} {'argmax':>8} {'largest':>9}")
    for name in chosen.model or MODELS:
        started = time.monotonic()
        tally, claim = measure(name)
        key = name.replace(".", "_").replace("-", "_")
        differing = 100 * tally.rows_differing / tally.rows
        flips = 100 * tally.argmax_differing / tally.rows
        figures[f"{key}_rows"] = tally.rows
        figures[f"{key}_rows_differing_percent"] = round(differing, 3)
        figures[f"{key}_argmax_differing_percent"] = round(flips, 3)
        figures[f"{key}_largest_logit_deviation"] = round(tally.largest_deviation, 6)
        print(
            f"{name:28} {claim:14} {tally.rows:6} {differing:7.2f}% {flips:7.2f}% "
            f"{tally.largest_deviation:9.2g}   ({time.monotonic() - started:.0f} s)",
            flush=True,
        )
    figures |= {
        "kind": "measured",
        "machine": processor(),
        "commit": commit(),
        "command": shlex.join(["python", "bench/exactness.py", *sys.argv[1:]]),
    }
    chosen.results.mkdir(parents=True, exist_ok=True)
    target = chosen.results / "exactness.json"
    target.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
