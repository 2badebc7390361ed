"""Other central servers on the same model, prompts and machine, each as a process that reads its own processor time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sled_bench.folders import hugging_face_folder, run_json
from sled_bench.models import DRAFTER, TARGET
from sled_bench.recording import VLLM_ALONE, encoded

HERE = Path(__file__).resolve().parent
LOADS = (1, 4, 16)
DRAFT_TOKENS = 4


def measured(
    prompts: Sequence[str], loads: Sequence[int]
) -> tuple[list[dict[str, Any]], dict[str, float | int | str]]:
    """One row for each server, mode and load."""
    asked = encoded(TARGET, prompts)
    rows: list[dict[str, Any]] = []
    for name, mode, answer in _servers(asked, list(loads)):
        for row in answer:
            row = {
                "case": "peers",
                "load": row["load"],
                "arm": f"{name}, {mode}",
                "tokens_a_cpu_second": row["tokens"] / row["cpu"],
                "tokens_a_second": row["tokens"] / row["wall"],
            }
            plain = [r for r in rows if r["arm"] == f"{name}, plain" and r["load"] == row["load"]]
            if plain:
                row["ratio"] = row["tokens_a_cpu_second"] / plain[0]["tokens_a_cpu_second"]
                row["wall_ratio"] = row["tokens_a_second"] / plain[0]["tokens_a_second"]
            rows.append(row)
            print(row, flush=True)
    return rows, {}


def _servers(prompts: list[list[int]], loads: list[int]) -> Any:
    """(server, mode, its rows), the plain mode first."""
    target, drafter = str(hugging_face_folder(TARGET)), str(hugging_face_folder(DRAFTER))
    request = {"prompts": prompts, "loads": loads, "tokens": 32, "threads": os.cpu_count() or 1}
    drafting = {"num_speculative_tokens": DRAFT_TOKENS}
    for mode, speculation in {
        "plain": None,
        "ngram": {"method": "ngram", "prompt_lookup_max": 4, "prompt_lookup_min": 2, **drafting},
        "draft model": {"method": "draft_model", "model": drafter, **drafting},
    }.items():
        more = {"arguments": {"speculative_config": speculation}} if speculation else {}
        own = {**request, "model": target, "slots": max(loads), **more}
        yield "vLLM", mode, run_json(VLLM_ALONE, own)
    for mode, draft in {"plain": None, "draft model": str(DRAFTER.gguf)}.items():
        own = {**request, "model": str(TARGET.gguf), "draft": draft}
        yield "llama.cpp server, 4 bit", mode, _own_python(HERE / "llamacpp_alone.py", own)
    script = HERE / "transformers_alone.py"
    yield "transformers", "plain", run_json(script, {**request, "model": target})
    assisted = {**request, "model": target, "assistant": drafter, "loads": [1]}
    yield "transformers", "assistant_model", run_json(script, assisted)


def _own_python(script: Path, request: dict[str, Any]) -> Any:
    """The same as `run_json` in this environment."""
    ran = subprocess.run(
        [sys.executable, str(script)],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=1500,
    )
    lines = [line for line in ran.stdout.splitlines() if line.startswith("RESULT")]
    if not lines:
        raise ChildProcessError(f"{script.name} failed:\n{ran.stderr[-3000:]}")
    return json.loads(lines[-1].removeprefix("RESULT"))
