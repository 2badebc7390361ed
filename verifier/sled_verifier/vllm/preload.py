"""What must be so before a process starts, for vLLM on a processor: Intel's OpenMP loaded ahead of
everything, and the number of threads. Must not import vLLM.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sled_verifier.vllm.versions import is_processor_build

LIBRARY = "libiomp5.so"
"""Without it vLLM 0.32 warns of slow speculative decoding on processors; a wheel of its own,
intel-openmp, puts it beside the interpreter.
"""


def environment_for_vllm(
    environment: Mapping[str, str], threads: int, folder: Path
) -> dict[str, str] | None:
    """The environment that vLLM wants on a processor; None when this is it, or `folder` has no such
    library. What somebody has set already stays.
    """
    library = folder / LIBRARY
    loaded = environment.get("LD_PRELOAD", "")
    if "libiomp" in loaded or not library.is_file():
        return None
    return {
        # Its waiting threads spin for 200 ms otherwise, and burn what devices' rounds leave idle.
        "KMP_BLOCKTIME": "1",
        "OMP_NUM_THREADS": str(threads),
        **environment,
        "LD_PRELOAD": f"{library} {loaded}".strip(),
    }


def restart_for_vllm(arguments: Sequence[str], threads: int) -> None:
    """Start this very process again where that changes its environment; returns where it does not."""
    if not is_processor_build():
        return
    environment = environment_for_vllm(os.environ, threads, Path(sys.prefix) / "lib")
    if environment is not None:
        command = [sys.executable, "-m", "sled_verifier", *arguments]
        os.execve(sys.executable, command, environment)
