"""What can go wrong between us and llama.cpp.

LlamaCppError
├── LibraryNotFound     no shared object where it was looked for
├── LibraryMismatch     the shared object is not of the build that the declarations describe
├── ModelLoadError      the file is missing, damaged, or of a kind that cannot be used here
├── ContextError        a request that the context cannot take (slot, length, size)
├── TokenizeError       a text that the vocabulary cannot encode
└── DecodeError         a forward pass failed; its slots were emptied
    └── DecodeAborted   because `Context.abort` was called
"""

from __future__ import annotations


class LlamaCppError(Exception):
    """Root of everything this package raises."""


class LibraryNotFound(LlamaCppError):
    """No llama.cpp library was found; the message says where it was looked for."""


class LibraryMismatch(LlamaCppError):
    """The library's structs or functions are not those of the pinned build; the message names the
    first difference.
    """


class ModelLoadError(LlamaCppError):
    """A model file could not be loaded; the message carries llama.cpp's own last words."""


class ContextError(LlamaCppError):
    """A slot, position or size is outside what the context was made for."""


class TokenizeError(LlamaCppError):
    """A text could not be turned into tokens."""


class DecodeError(LlamaCppError):
    """A forward pass failed. Every slot in `slots` was emptied."""

    def __init__(self, message: str, slots: tuple[int, ...]) -> None:
        super().__init__(message)
        self.slots = slots


class DecodeAborted(DecodeError):
    """A forward pass was ended by `Context.abort`. Every slot in `slots` was emptied."""
