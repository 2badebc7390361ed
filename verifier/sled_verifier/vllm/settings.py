"""What the vLLM backend is told at start. Holds values only; must not import vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sled_protocol.limits import WIRE_MAX_DRAFT_TOKENS
from sled_verifier.engine.base import EngineError

RESERVED_ARGUMENTS = frozenset(
    {
        "async_scheduling",
        "enable_lora",
        "max_lora_rank",
        "quantization",
        "tensor_parallel_size",
        "distributed_executor_backend",
        "dtype",
        "enable_chunked_prefill",
        "enable_prefix_caching",
        "max_model_len",
        "max_num_batched_tokens",
        "max_num_seqs",
        "model",
        "pipeline_parallel_size",
        "scheduler_cls",
        "speculative_config",
        "structured_outputs_config",
        "worker_extension_cls",
    }
)
"""vLLM arguments that this backend decides itself; `engine_arguments` may not name them."""


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """One target model on vLLM.

    Raises:
        EngineError: a value is out of range, or an engine argument is reserved.
    """

    model_path: Path
    """A folder as Hugging Face lays it out: config.json and safetensors."""
    vocabulary_path: Path
    """A GGUF file of the same model (any weights, or none): its vocabulary is what devices get and
    are checked against.
    """
    model_name: str
    dtype: str = "auto"
    context_tokens: int = 4096
    slots: int = 64
    """Sequences whose keys and values vLLM may hold at once."""
    step_tokens: int = 2048
    prefill_chunk_tokens: int = 512
    """Prompt tokens of one sequence in a step while devices are decoding."""
    max_draft_tokens: int = 16
    kv_cache_gib: int | None = None
    """Memory for keys and values on a CPU; None leaves it to vLLM."""
    enforce_eager: bool | None = None
    """None compiles on a GPU and does not on a CPU."""
    threads: int | None = None
    """Compute threads on a processor, shared by the workers; None leaves it to vLLM."""
    quantization: str | None = None
    """vLLM's name for it; None goes by the model folder."""
    tensor_parallel_size: int = 1
    adapters: Mapping[str, Path] = field(default_factory=dict)
    """LoRA adapters by name; a sequence uses one or none."""
    max_adapter_rank: int = 16
    engine_arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of vLLM's EngineArgs."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_draft_tokens <= WIRE_MAX_DRAFT_TOKENS:
            raise EngineError(
                f"max_draft_tokens is {self.max_draft_tokens}; allowed: 0 to {WIRE_MAX_DRAFT_TOKENS}"
            )
        if self.max_draft_tokens + 2 >= self.context_tokens:
            raise EngineError("context_tokens must be above max_draft_tokens + 2")
        if self.step_tokens < max(self.slots, self.max_draft_tokens + 1):
            raise EngineError("step_tokens must hold the longest round and one token of each slot")
        reserved = sorted(RESERVED_ARGUMENTS & set(self.engine_arguments))
        if reserved:
            raise EngineError(f"engine_arguments may not set {', '.join(reserved)}")
