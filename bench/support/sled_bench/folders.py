"""Hugging Face folders of the benches' models, made once from the catalogue's GGUF files, and the environment that runs them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sled_bench.models import BenchModel
from sled_bench.report import ROOT
from sled_cli.models.store import default_cache_dir
from sled_verifier.vllm.preload import environment_for_vllm

CACHE = default_cache_dir().parent / "bench"
_CONVERT = """
import os, sys, torch
from transformers import AutoModelForCausalLM
source, folder = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(
    os.path.dirname(source), gguf_file=os.path.basename(source), dtype=torch.bfloat16)
model.hf_quantizer = None
model.is_quantized = False
if hasattr(model.config, "quantization_config"):
    del model.config.quantization_config
model.save_pretrained(folder)
"""


def engines_python() -> Path:
    """The interpreter of the environment with vLLM and torch, which `make engines` makes.

    Raises:
        FileNotFoundError: it is not there.
    """
    where = [str(ROOT / "tests" / "engines" / "install.sh"), "--where"]
    folder = subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip()
    python = Path(folder) / "bin" / "python"
    if not python.exists():
        raise FileNotFoundError("the environment with vLLM is missing: run make engines")
    return python


def environment(threads: int) -> dict[str, str]:
    """What a process of that environment is started with."""
    folder = engines_python().parents[1] / "lib"
    parts = ("protocol", "speculation", "llamacpp", "verifier", "edge", "cli")
    own = [*(ROOT / part for part in parts), ROOT / "tests/support", ROOT / "bench/support"]
    return {
        **(environment_for_vllm(os.environ, threads, folder) or os.environ),
        "PYTHONPATH": os.pathsep.join(map(str, own)),
        "HF_HUB_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "3",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }


def hugging_face_folder(model: BenchModel) -> Path:
    """The model's weights as the GGUF file has them, in bf16."""
    folder = CACHE / "hugging-face" / f"{model.name}-bf16"
    if not (folder / "done").exists():
        command = [str(engines_python()), "-c", _CONVERT, str(model.gguf), str(folder)]
        subprocess.run(command, check=True, timeout=900, env=environment(os.cpu_count() or 1))
        (folder / "done").touch()
    return folder


def run_json(script: Path, request: Mapping[str, Any], *arguments: str) -> Any:
    """Run a script of the engines' environment on a JSON request; its answer is the line that begins with RESULT.

    Raises:
        ChildProcessError: it gave no answer; the message holds the end of what it said.
    """
    command: Sequence[str] = [str(engines_python()), str(script), *arguments]
    ran = subprocess.run(
        command,
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=1500,
        env=environment(os.cpu_count() or 1),
    )
    lines = [line for line in ran.stdout.splitlines() if line.startswith("RESULT")]
    if not lines:
        raise ChildProcessError(f"{script.name} failed:\n{ran.stdout[-500:]}{ran.stderr[-3000:]}")
    return json.loads(lines[-1].removeprefix("RESULT"))
