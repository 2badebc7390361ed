"""The models of the benches: weights from the catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sled_cli.models import ModelStore


@dataclass(frozen=True, slots=True)
class BenchModel:
    """One model of the catalogue."""

    name: str

    @property
    def gguf(self) -> Path:
        """Its GGUF file; fetched once."""
        return ModelStore().fetch(f"catalog://{self.name}")


TARGET = BenchModel("qwen2.5-coder-1.5b-q4_k_m")
DRAFTER = BenchModel("qwen2.5-coder-0.5b-q4_k_m")
SMALL = BenchModel("smollm2-135m-q4_1")
SMALL_TARGET = BenchModel("smollm2-135m-q8_0")
