"""Conversion to another weight type, on the tiny model."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import dequantize

from sled_cli.models.catalogue import parse_catalogue
from sled_cli.models.convert import convert, pack_q4_0
from sled_cli.models.errors import ChecksumMismatch, ConversionFailed
from sled_cli.models.progress import Progress, Stage
from sled_cli.models.store import ModelStore
from sled_llamacpp import Chunk, Context, Model
from sled_llamacpp.gguf_header import read_gguf_header
from sled_testkit.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


def logits(path: Path) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    with Model(path) as model, Context(model, slots=1, context_tokens=50, threads=1) as context:
        return context.decode([Chunk(0, tuple(range(20)), 20)])[0]


@pytest.mark.parametrize(
    ("weight_type", "correlation"),
    [("F32", 1.0), ("F16", 0.9999), ("BF16", 0.999), ("Q8_0", 0.999), ("Q4_0", 0.9)],
)
def test_the_copy_runs_and_is_close(
    tiny: Path, tmp_path: Path, weight_type: str, correlation: float
) -> None:
    target = tmp_path / "copy.gguf"
    steps: list[tuple[int, int]] = []
    convert(tiny, target, weight_type, lambda done, total: steps.append((done, total)))
    assert read_gguf_header(target).weight_types == {"F32", weight_type}
    copy, original = logits(target).ravel(), logits(tiny).ravel()
    assert np.corrcoef(copy, original)[0, 1] >= correlation
    assert weight_type != "F32" or np.array_equal(copy, original)
    assert steps[-1][0] == steps[-1][1] < target.stat().st_size
    with Model(tiny) as one, Model(target) as other:
        assert one.vocabulary.fingerprint() == other.vocabulary.fingerprint()
        assert one.chat_template() == other.chat_template()


def test_the_same_bytes_every_time(tiny: Path, tmp_path: Path) -> None:
    for name in "ab":
        convert(tiny, tmp_path / name, "Q4_0", lambda done, total: None)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_same_bytes_on_every_machine() -> None:
    values = (np.arange(64 * 96) * 7919 % 10007 - 5000).astype(np.float32).reshape(64, 96) / 3
    digest = hashlib.sha256(pack_q4_0(values).tobytes()).hexdigest()
    assert digest == "972b315b4d22698f8b6adfb80d20ef09dc920c322fcd3859a97c3e0d10034948"


def test_a_copy_of_a_copy_is_the_same(tiny: Path, tmp_path: Path) -> None:
    """Q8_0 -> F32 -> Q8_0 loses nothing, so that a derived model can be derived from."""
    convert(tiny, tmp_path / "a", "Q8_0", lambda done, total: None)
    convert(tmp_path / "a", tmp_path / "b", "F32", lambda done, total: None)
    a, b = (GGUFReader(tmp_path / name).tensors for name in "ab")
    for one, other in zip(a, b, strict=True):
        values = dequantize(one.data, one.tensor_type)
        assert np.array_equal(values.ravel(), dequantize(other.data, other.tensor_type).ravel())


def test_q4_0_rounds_to_the_nearest_of_its_levels() -> None:
    values = np.random.default_rng(3).normal(size=(7, 96)).astype(np.float32)
    packed = pack_q4_0(values)
    assert packed.shape == (7, 96 // 32 * 18)
    restored = dequantize(packed, GGMLQuantizationType.Q4_0)
    blocks, errors = values.reshape(-1, 32), np.abs(values - restored).reshape(-1, 32)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / 8
    # Half a level, a whole one at the clipped end, and the scale's own rounding to half precision.
    assert (errors <= scale * 1.01).all()
    assert np.median(errors / scale) < 0.3


def test_a_block_of_zeros_stays_zero() -> None:
    packed = pack_q4_0(np.zeros((1, 32), np.float32))
    assert not dequantize(packed, GGMLQuantizationType.Q4_0).any()


def test_an_unknown_type_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionFailed, match=r"no conversion to Q4_K"):
        convert(tiny, tmp_path / "x", "Q4_K", lambda done, total: None)


def test_rows_that_do_not_fit_are_named(tmp_path: Path) -> None:
    source = tmp_path / "odd.gguf"
    writer = GGUFWriter(source, "llama")
    writer.add_tensor("odd.weight", np.zeros((4, 33), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ConversionFailed, match=r"odd.weight has rows of 33"):
        convert(source, tmp_path / "x", "Q8_0", lambda done, total: None)


def test_a_damaged_source_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "broken.gguf"
    source.write_bytes(b"no model at all, but long enough to be one")
    with pytest.raises(ConversionFailed, match=r"broken.gguf to F32"):
        convert(source, tmp_path / "x", "F32", lambda done, total: None)


def derived_catalogue(base: Path, sha256: str) -> str:
    return f"""
models:
  base:
    origin: {{kind: package, requirement: base==1, member: base.gguf}}
    sha256: {hashlib.sha256(base.read_bytes()).hexdigest()}
    bytes: {base.stat().st_size}
    licence: MIT
    note: ""
  base-f16:
    origin: {{kind: derived, base: base, weightType: F16}}
    sha256: {sha256}
    bytes: 300000
    licence: MIT
    note: ""
"""


def test_a_derived_model_is_made_from_its_base(tiny: Path, tmp_path: Path) -> None:
    convert(tiny, tmp_path / "expected", "F16", lambda done, total: None)
    digest = hashlib.sha256((tmp_path / "expected").read_bytes()).hexdigest()
    wheel = _OneWheel("base.gguf", tiny.read_bytes())
    text = derived_catalogue(tiny, digest)
    store = ModelStore(tmp_path / "cache", catalogue=parse_catalogue(text), get_wheel=wheel)
    seen: list[Progress] = []
    path = store.fetch("base-f16", progress=seen.append)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    assert {p.stage for p in seen} >= {Stage.DOWNLOAD, Stage.CONVERT, Stage.VERIFY}
    assert [m.source for m in store.stored()] == ["catalog://base", "catalog://base-f16"]


def test_a_derived_model_with_other_bytes_is_refused(tiny: Path, tmp_path: Path) -> None:
    text = derived_catalogue(tiny, "f" * 64)
    wheel = _OneWheel("base.gguf", tiny.read_bytes())
    store = ModelStore(tmp_path / "cache", catalogue=parse_catalogue(text), get_wheel=wheel)
    with pytest.raises(ChecksumMismatch):
        store.fetch("base-f16")
    assert [m.source for m in store.stored()] == ["catalog://base"]


class _OneWheel:
    """Brings the same wheel whatever is asked for."""

    def __init__(self, member: str, data: bytes) -> None:
        self._member, self._data = member, data

    def __call__(self, requirement: str, folder: Path, on_bytes: object) -> Path:
        path = folder / "one.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(self._member, self._data)
        return path
