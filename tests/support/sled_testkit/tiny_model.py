"""A Llama of a few thousand weights as a GGUF file, written in milliseconds: llama.cpp runs it for
real, so that tests of everything around a model need no download. Its text is nonsense.

The vocabulary is the 256 bytes, `<|im_start|>`, `<|im_end|>` (ends a generation) and one merge,
"th".
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from gguf import GGUFWriter, TokenType
from numpy.typing import NDArray

START_TOKEN: Final = 257
END_TOKEN: Final = 258
VOCAB_SIZE: Final = 259
CONTEXT_TOKENS: Final = 4096
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_WIDTH: Final = 64
_HEADS: Final = 2
_LAYERS: Final = 2
_HIDDEN: Final = 96


def write_tiny_model(
    path: Path, *, seed: int = 1, chat_template: str | None = CHAT_TEMPLATE
) -> Path:
    """Write the model to `path` (F32; weights drawn from `seed`) and return the path."""
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_HIDDEN)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(1)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    _add_vocabulary(writer)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    for name, values in _tensors(np.random.default_rng(seed)).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: GGUFWriter) -> None:
    tokens = [*_byte_letters(), "th", "<|im_start|>", "<|im_end|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.NORMAL] * 257 + [TokenType.CONTROL] * 2)
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(START_TOKEN)
    writer.add_eos_token_id(END_TOKEN)
    writer.add_add_bos_token(False)


def _byte_letters() -> list[str]:
    """The printable letter that byte-level vocabularies write for each byte (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {byte: chr(byte) for byte in plain}
    letters |= {byte: chr(256 + n) for n, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]


def _tensors(random: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        return random.normal(0, columns**-0.5, (rows, columns)).astype(np.float32)

    head = _WIDTH // _HEADS
    found = {
        "token_embd.weight": matrix(VOCAB_SIZE, _WIDTH),
        "output.weight": 4 * matrix(VOCAB_SIZE, _WIDTH),
        "output_norm.weight": np.ones(_WIDTH, np.float32),
    }
    for layer in range(_LAYERS):
        shapes = {
            "attn_q": (_WIDTH, _WIDTH),
            "attn_k": (head, _WIDTH),
            "attn_v": (head, _WIDTH),
            "attn_output": (_WIDTH, _WIDTH),
            "ffn_gate": (_HIDDEN, _WIDTH),
            "ffn_up": (_HIDDEN, _WIDTH),
            "ffn_down": (_WIDTH, _HIDDEN),
        }
        for name, (rows, columns) in shapes.items():
            found[f"blk.{layer}.{name}.weight"] = matrix(rows, columns)
        for name in ("attn_norm", "ffn_norm"):
            found[f"blk.{layer}.{name}.weight"] = np.ones(_WIDTH, np.float32)
    return found
