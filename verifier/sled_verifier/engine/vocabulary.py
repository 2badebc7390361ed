"""A vocabulary file for the toy model: GGUF without tensors whose tokens are single bytes. Knows no
other vocabulary.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import gguf


def byte_vocabulary_gguf(vocab_size: int, end_token: int | None = None) -> bytes:
    """A GGUF file whose token i stands for byte i; ids from 256 on are unused. `end_token` ends a text."""
    tokens = [
        f"<0x{token:02X}>" if token < 256 else f"<unused{token}>" for token in range(vocab_size)
    ]
    types = [
        gguf.TokenType.BYTE if token < 256 else gguf.TokenType.UNUSED for token in range(vocab_size)
    ]
    with tempfile.TemporaryDirectory(prefix="sled-") as folder:
        path = Path(folder) / "vocabulary.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores([0.0] * vocab_size)
        writer.add_token_types(types)
        if end_token is not None:
            writer.add_eos_token_id(end_token)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        return path.read_bytes()
