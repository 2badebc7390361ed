"""Tiny models of many architectures with random weights, and what transformers itself writes with them. Imports torch
and transformers inside functions only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from sled_verifier.engine.vocabulary import byte_vocabulary_gguf

VOCAB_SIZE: Final = 256
CONTEXT_TOKENS: Final = 512
WINDOW: Final = 24
"""Of those that look back over a window in some or all layers."""

_SIZES: Final[dict[str, Any]] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT_TOKENS,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_EXPERTS: Final = {"num_local_experts": 4, "num_experts_per_tok": 2}
_GEMMA: Final = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": WINDOW}
_NO_GROUPS: Final = {key: size for key, size in _SIZES.items() if key != "num_key_value_heads"}

ARCHITECTURES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "llama": ("LlamaConfig", _SIZES),
    "qwen2": ("Qwen2Config", _SIZES),
    "qwen3": ("Qwen3Config", _SIZES | {"head_dim": 16}),
    "mistral": ("MistralConfig", _SIZES | {"sliding_window": WINDOW}),
    "gemma": ("GemmaConfig", _SIZES | {"head_dim": 16}),
    "gemma2": ("Gemma2Config", _SIZES | _GEMMA),
    "gemma3": ("Gemma3TextConfig", _SIZES | _GEMMA),
    "phi3": ("Phi3Config", _SIZES),
    "gpt_neox": ("GPTNeoXConfig", _NO_GROUPS),
    "smollm3": ("SmolLM3Config", _SIZES),
    "mixtral": ("MixtralConfig", _SIZES | _EXPERTS),
    "gpt_oss": ("GptOssConfig", _SIZES | _EXPERTS | {"head_dim": 16, "sliding_window": WINDOW}),
    "gpt2": (
        "GPT2Config",
        {
            "vocab_size": VOCAB_SIZE,
            "n_embd": 64,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": CONTEXT_TOKENS,
            "initializer_range": 0.3,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
}
"""Name, and the configuration class of transformers with its arguments. Rotary, learned and no
positions; grouped and plain heads; windows, capped scores, sinks, experts.
"""

REFUSED: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "bloom": (
        "BloomConfig",
        {"vocab_size": VOCAB_SIZE, "hidden_size": 64, "n_layer": 2, "n_head": 4},
    ),
    "mamba": ("MambaConfig", {"vocab_size": VOCAB_SIZE, "hidden_size": 64, "num_hidden_layers": 2}),
    "stablelm": ("StableLmConfig", _SIZES),
    "qwen3_next": ("Qwen3NextConfig", _SIZES | {"num_hidden_layers": 4, "head_dim": 16}),
}
"""Architectures that the engine must refuse at start."""


def write_model(folder: Path, kind: tuple[str, dict[str, Any]], *, seed: int = 1) -> Path:
    """A model with random fp32 weights as a Hugging Face folder, and its vocabulary file beside them."""
    import torch
    import transformers

    name, arguments = kind
    torch.manual_seed(seed)
    config = getattr(transformers, name)(**arguments)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    (folder / "vocabulary.gguf").write_bytes(byte_vocabulary_gguf(VOCAB_SIZE))
    return folder


def write_byte_tokenizer(folder: Path) -> None:
    """A tokeniser for the models here, as `byte_vocabulary_gguf` has it: token i is byte i."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # The byte-level alphabet: a byte that cannot be printed is written as a character from 256 on.
    printed = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    words = {chr(byte if byte in printed else next(others)): byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def own_greedy(folder: Path, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
    """What transformers' `generate` writes after each prompt alone, with the model's own attention and
    cache, in fp32. End tokens do not stop it.
    """
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    torch.set_num_threads(1)
    model.generation_config.eos_token_id = None
    texts = []
    for prompt in prompts:
        written = model.generate(
            torch.tensor([list(prompt)]),
            attention_mask=torch.ones((1, len(prompt)), dtype=torch.long),
            do_sample=False,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            pad_token_id=0,
        )
        texts.append(written[0, len(prompt) :].tolist())
    return texts


def own_greedy_apart(
    folder: Path, prompts: Sequence[Sequence[int]], tokens: int
) -> list[list[int]]:
    """`own_greedy` in a process of its own, where this one's torch belongs to somebody else."""
    code = (
        "import json, pathlib, sys; from sled_testkit.torch_models import own_greedy; "
        "folder, prompts, tokens = json.load(sys.stdin); "
        "print('RESULT' + json.dumps(own_greedy(pathlib.Path(folder), prompts, tokens)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([str(folder), [list(prompt) for prompt in prompts], tokens]),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = [line for line in ran.stdout.splitlines() if line.startswith("RESULT")]
    if not lines:
        raise RuntimeError(f"transformers failed:\n{ran.stderr[-3000:]}")
    texts: list[list[int]] = json.loads(lines[0].removeprefix("RESULT"))
    return texts
