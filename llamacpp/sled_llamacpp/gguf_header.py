"""The head of a GGUF file: which weight types it holds, and its key-values as a file of their own.

Reads only what those two questions need, so that a vocabulary of 150,000 entries costs a fraction
of a second at start (the gguf package builds an array per entry). Never reads tensor data. Format:
ggml's docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from typing import Final

from sled_llamacpp.errors import ModelLoadError

MAX_HEADER_ENTRIES: Final = 10_000_000
"""Array entries, key-values and tensors together; far above any vocabulary, below what would hang a
start.
"""

_MAGIC: Final = b"GGUF"
_HEAD: Final = struct.Struct("<4sIQQ")
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_SCALAR_BYTES: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING: Final = 8
_ARRAY: Final = 9
_ALIGNMENT: Final = 32
WEIGHT_TYPES: Final = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K",
    11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 30: "BF16", 39: "MXFP4",
}  # fmt: skip
"""ggml's type numbers; others are named TYPE_n."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """`weight_types` are the names of all tensors' types; `vocabulary` is a whole GGUF file without
    tensors.
    """

    weight_types: frozenset[str]
    vocabulary: bytes


def read_gguf_header(path: str | os.PathLike[str]) -> GgufHeader:
    """Read the head of the file at `path`.

    Raises:
        ModelLoadError: missing, cut off, or no little-endian GGUF of version 2 or 3.
    """
    name = os.path.basename(path)
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read(data)
    except OSError as error:
        raise ModelLoadError(f"{name} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ModelLoadError(f"{name} is no usable GGUF file: {error}") from error
    except struct.error as error:
        raise ModelLoadError(f"{name} is no usable GGUF file: it is cut off") from error


def _read(data: mmap.mmap) -> GgufHeader:
    magic, version, tensor_count, pair_count = _HEAD.unpack_from(data)
    if magic != _MAGIC or version not in (2, 3):
        raise ValueError("not a little-endian GGUF of version 2 or 3")
    walker = _Walker(data, _HEAD.size)
    walker.count(tensor_count + pair_count)
    for _ in range(pair_count):
        walker.skip_string()
        walker.skip_value(walker.u32())
    pairs = data[_HEAD.size : walker.at]
    types = frozenset(walker.tensor_type() for _ in range(tensor_count))
    vocabulary = _HEAD.pack(magic, version, 0, pair_count) + pairs
    return GgufHeader(types, vocabulary + bytes(-len(vocabulary) % _ALIGNMENT))


class _Walker:
    """A position in the file that moves over one field at a time and never beyond the end."""

    def __init__(self, data: mmap.mmap, at: int) -> None:
        self._data = data
        self.at = at
        self._entries = 0

    def count(self, entries: int) -> None:
        self._entries += entries
        if self._entries > MAX_HEADER_ENTRIES:
            raise ValueError(f"its header has more than {MAX_HEADER_ENTRIES} entries")

    def u32(self) -> int:
        value: int = _U32.unpack_from(self._data, self.at)[0]
        self.at += 4
        return value

    def u64(self) -> int:
        value: int = _U64.unpack_from(self._data, self.at)[0]
        self.at += 8
        return value

    def skip(self, count: int) -> None:
        self.at += count
        if self.at > len(self._data):
            raise ValueError("it is cut off")

    def skip_string(self) -> None:
        self.skip(self.u64())

    def skip_value(self, kind: int) -> None:
        if kind in _SCALAR_BYTES:
            self.skip(_SCALAR_BYTES[kind])
        elif kind == _STRING:
            self.skip_string()
        elif kind == _ARRAY:
            self._skip_array()
        else:
            raise ValueError(f"its header has a value of unknown type {kind}")

    def tensor_type(self) -> str:
        self.skip_string()
        self.skip(8 * self.u32())
        number = self.u32()
        self.skip(8)
        return WEIGHT_TYPES.get(number, f"TYPE_{number}")

    def _skip_array(self) -> None:
        kind, count = self.u32(), self.u64()
        if kind in _SCALAR_BYTES:
            self.skip(_SCALAR_BYTES[kind] * count)
        elif kind == _STRING:
            self.count(count)
            for _ in range(count):
                self.skip_string()
        else:
            raise ValueError(f"its header has an array of unsupported type {kind}")
