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
intel-openmp, puts it in the folder `lib` beside the interpreter or beside the packages.
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


def library_folder(places: Sequence[str]) -> Path:
    """The first `lib` in these places that has the library; when none has, that of the first."""
    folders = [Path(place) / "lib" for place in places]
    return next((folder for folder in folders if (folder / LIBRARY).is_file()), folders[0])


def restart_for_vllm(arguments: Sequence[str], threads: int) -> None:
    """Start this very process again where that changes its environment; returns where it does not."""
    if not is_processor_build():
        return
    environment = environment_for_vllm(os.environ, threads, library_folder([sys.prefix, *sys.path]))
    if environment is not None:
        command = [sys.executable, "-m", "sled_verifier", *arguments]
        os.execve(sys.executable, command, environment)
