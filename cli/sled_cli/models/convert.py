"""A GGUF model with its matrices in another weight type. Deterministic: the same bytes on every
machine.

One tensor at a time, so that the memory needed is that of the largest one. Vectors (norms, biases)
become F32.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray

from sled_cli.models.errors import ConversionFailed

_FILE_TYPES: Final = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "BF16": 32}
"""`general.file_type` by weight type."""

_QUANTISATION_VERSION: Final = 2
_WRITTEN_BY_US: Final = (
    "general.architecture",
    "general.file_type",
    "general.quantization_version",
)


def convert(
    source: Path, target: Path, weight_type: str, on_bytes: Callable[[int, int], None]
) -> None:
    """Write `source` to `target` with every matrix in `weight_type`.

    `on_bytes` is told the bytes of tensors written so far and in all.

    Raises:
        ConversionFailed: `source` is damaged, or has a type or shape that cannot be converted.
    """
    if weight_type not in _FILE_TYPES:
        raise ConversionFailed(f"no conversion to {weight_type}")
    try:
        reader = GGUFReader(source)
        writer = _writer(reader, target, weight_type)
        _write(reader, writer, GGMLQuantizationType[weight_type], on_bytes)
    except (ValueError, KeyError, IndexError, NotImplementedError) as error:
        raise ConversionFailed(f"{source.name} to {weight_type}: {error}") from error


def _writer(reader: Any, target: Path, weight_type: str) -> Any:
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name in _WRITTEN_BY_US or field.name.startswith("GGUF."):
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
    writer.add_file_type(_FILE_TYPES[weight_type])
    writer.add_quantization_version(_QUANTISATION_VERSION)
    return writer


def _write(
    reader: Any, writer: Any, matrix_type: Any, on_bytes: Callable[[int, int], None]
) -> None:
    sizes: list[int] = []
    for tensor in reader.tensors:
        kind = matrix_type if len(tensor.shape) > 1 else GGMLQuantizationType.F32
        block, block_bytes = GGML_QUANT_SIZES[kind]
        shape = [int(n) for n in reversed(tensor.shape)]
        if shape[-1] % block:
            raise ConversionFailed(f"{tensor.name} has rows of {shape[-1]}, no multiple of {block}")
        sizes.append(int(tensor.n_elements) // block * block_bytes)
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), sizes[-1], raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for done, tensor in zip(np.cumsum(sizes), reader.tensors, strict=True):
            kind = matrix_type if len(tensor.shape) > 1 else GGMLQuantizationType.F32
            writer.write_tensor_data(_converted(tensor, kind))
            on_bytes(int(done), sum(sizes))
    finally:
        writer.close()


def _converted(tensor: Any, kind: Any) -> Any:
    values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
    values = values.reshape([int(n) for n in reversed(tensor.shape)])
    return pack_q4_0(values) if kind == GGMLQuantizationType.Q4_0 else quantize(values, kind)


def pack_q4_0(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Blocks of 32 values as ggml's Q4_0: a half-precision scale, then 4 bits a value.

    Ours because the gguf package rounds differently from one version to the next, and the result is
    pinned by its checksum. Rounds as ggml does without fused multiply-add.
    """
    blocks = values.reshape(-1, 32)
    peak = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
    scale = peak / np.float32(-8)
    with np.errstate(divide="ignore"):
        inverse = np.where(scale == 0, np.float32(0), np.float32(1) / scale)
    levels = np.clip(np.floor(blocks * inverse + np.float32(8.5)), 0, 15).astype(np.uint8)
    packed = levels[:, :16] | levels[:, 16:] << np.uint8(4)
    stored = np.concatenate([scale.astype("<f2").view(np.uint8), packed], axis=1)
    return stored.reshape(*values.shape[:-1], -1)
