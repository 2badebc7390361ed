"""Cost surfaces for simulations: seconds of one step of a target model on a machine that is not here."""

from __future__ import annotations

from dataclasses import dataclass

from sled_speculation.step_cost import StepShape


@dataclass(frozen=True, slots=True)
class Roofline:
    """A step streams the weights or is limited by arithmetic, whichever is longer; it reads the keys and values besides.

    All from data sheets and the model's size, with the share of either limit that kernels reach.
    """

    parameters: float
    weight_bytes: float
    bytes_per_second: float
    flops_per_second: float
    kv_bytes_per_token: float
    overhead_seconds: float
    sequence_seconds: float = 0.0

    @property
    def step_seconds(self) -> float:
        """A step that streams the weights and does nothing else."""
        return self.overhead_seconds + self.weight_bytes / self.bytes_per_second

    def __call__(self, shape: StepShape) -> float:
        """Seconds of a step of that shape."""
        streaming = self.weight_bytes / self.bytes_per_second
        arithmetic = 2 * self.parameters * shape.tokens / self.flops_per_second
        reading = shape.context_tokens * self.kv_bytes_per_token / self.bytes_per_second
        own = self.overhead_seconds + shape.sequences * self.sequence_seconds
        return max(streaming, arithmetic) + reading + own


A100 = Roofline(
    parameters=8e9,
    weight_bytes=16e9,
    bytes_per_second=0.65 * 2.0e12,
    flops_per_second=0.75 * 312e12,
    kv_bytes_per_token=131_072,
    overhead_seconds=0.002,
    sequence_seconds=20e-6,
)
"""An 8B model in bf16 with grouped-query attention on one A100 80 GB: steps cost the same up to about 180 tokens."""
