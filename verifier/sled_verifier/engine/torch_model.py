"""From a Hugging Face folder to a model whose attention is ours, and the proof at start that it computes what its own
attention would. Needs torch and transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from sled_verifier.engine.base import EngineError
from sled_verifier.engine.torch_attention import NAME, paged_attention

AttentionInterface.register(NAME, paged_attention)

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.02}
"""Largest deviation of a logit at the check at start, as a share of the largest logit."""


def load_model(folder: Path, *, dtype: str, device: str, context_tokens: int) -> Any:
    """Load the causal language model in `folder`; its code comes from transformers, none from the folder.

    Raises:
        EngineError: not readable, or of a kind whose sequences do not fit one step; the message says why.
    """
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        _check(config, context_tokens)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=DTYPES[dtype],
            attn_implementation=NAME,
            local_files_only=True,
        )
        return model.to(device).eval()
    except EngineError:
        raise
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise EngineError(f"{folder.name} cannot be loaded: {_line(error)}") from error


def _check(config: Any, context_tokens: int) -> None:
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and context_tokens > longest:
        raise EngineError(f"context_tokens is {context_tokens}; the model's limit is {longest}")
    if getattr(config, "attention_chunk_size", None):
        raise EngineError("the model attends in chunks, which only its own masks know")
    rope = getattr(config, "rope_parameters", None) or {}
    kind = rope.get("rope_type", "default")
    usual = rope.get("original_max_position_embeddings") or longest or context_tokens
    if kind in ("dynamic", "longrope") and context_tokens > usual:
        raise EngineError(
            f"the model's positions ({kind}) depend on the longest sequence of a step beyond "
            f"{usual} tokens; allowed context_tokens: {usual}"
        )


OWN_ATTENTIONS = ("eager", "sdpa")
"""What transformers computes itself. The first sums in the model's type and can be far off in bfloat16 (Qwen2.5-Coder 1.5B:
0.16 of the largest logit from float32, the second 0.05); the second knows no soft cap.
"""


def own_logits(model: Any, tokens: list[int], attention: str) -> Any:
    """Logits [len(tokens), vocab] of one of the model's own attentions, in float32; leaves the model as it was.

    Raises:
        EngineError: it has none.
    """
    try:
        model.set_attn_implementation(attention)
        ids = torch.tensor([tokens], device=model.device)
        with torch.inference_mode():
            return model(input_ids=ids, use_cache=False).logits[0].float()
    except (ValueError, RuntimeError) as error:
        raise EngineError(f"the model's own attention fails: {_line(error)}") from error
    finally:
        model.set_attn_implementation(NAME)


def check_own(model: Any, tokens: list[int], found: Any, dtype: str) -> None:
    """Logits `found` [len(tokens), vocab] are those of one of the model's own attentions, but for rounding.

    Raises:
        EngineError: they are not, so the architecture needs more than paged attention.
    """
    last: EngineError | None = None
    for attention in OWN_ATTENTIONS:
        try:
            _check_close(found, own_logits(model, tokens, attention).cpu(), dtype)
            return
        except EngineError as error:
            last = last or error
    if last is not None:
        raise last


def _check_close(found: Any, expected: Any, dtype: str) -> None:
    allowed = TOLERANCE[dtype] * float(expected.abs().max())
    deviation = float((found - expected).abs().max())
    if not deviation <= allowed:
        raise EngineError(
            "the architecture keeps state outside of attention: logits deviate by "
            f"{deviation:.2g} from the model's own, allowed {allowed:.2g}"
        )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
