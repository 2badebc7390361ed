"""From settings to a loaded vLLM: version check, environment, import, in this order. The only place
that imports `internals`.
"""

from __future__ import annotations

import logging
import os

from sled_verifier.engine.base import EngineError
from sled_verifier.engine.gguf_vocabulary import read_vocabulary
from sled_verifier.vllm.runtime import DraftingRuntime
from sled_verifier.vllm.settings import VllmSettings
from sled_verifier.vllm.versions import check_version, installed_version, is_processor_build

REQUIRED_ENVIRONMENT = {
    # The scheduler must be in this process, where drafts arrive.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # The seam for draft distributions is in this model runner.
    "VLLM_USE_V2_MODEL_RUNNER": "0",
}
DEFAULT_ENVIRONMENT = {
    # Its warnings go to our log, not to standard output.
    "VLLM_CONFIGURE_LOGGING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


def load_runtime(settings: VllmSettings) -> DraftingRuntime:
    """Load the target model; takes a minute and most of the memory, so call it in the thread that
    will own the runtime.

    Raises:
        EngineError: vLLM is missing, of an untested version, or refuses the model or the settings.
    """
    check_version(installed_version())
    vocabulary = read_vocabulary(settings.vocabulary_path)
    os.environ.update(REQUIRED_ENVIRONMENT)
    for name, value in DEFAULT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if settings.threads is not None and is_processor_build():
        each = max(1, settings.threads // settings.tensor_parallel_size)
        os.environ.setdefault("OMP_NUM_THREADS", str(each))
    if settings.kv_cache_gib is not None:
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(settings.kv_cache_gib)
    logging.getLogger("vllm").setLevel(logging.WARNING)
    try:
        from sled_verifier.vllm.internals import VllmRuntime
    except ImportError as error:
        raise EngineError(f"vLLM is installed but cannot be imported: {error}") from error
    return VllmRuntime(settings, vocabulary)
