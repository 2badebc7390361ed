"""llama.cpp's C API from a prebuilt shared library, for verifier and edge alike. Knows nothing of
drafts or the wire.
"""

from __future__ import annotations

from sled_llamacpp.context import Chunk, Context
from sled_llamacpp.errors import (
    ContextError,
    DecodeAborted,
    DecodeError,
    LibraryMismatch,
    LibraryNotFound,
    LlamaCppError,
    ModelLoadError,
    TokenizeError,
)
from sled_llamacpp.library import Library
from sled_llamacpp.model import Model
from sled_llamacpp.vocabulary import Vocabulary

__all__ = [
    "Chunk",
    "Context",
    "ContextError",
    "DecodeAborted",
    "DecodeError",
    "Library",
    "LibraryMismatch",
    "LibraryNotFound",
    "LlamaCppError",
    "Model",
    "ModelLoadError",
    "TokenizeError",
    "Vocabulary",
]
