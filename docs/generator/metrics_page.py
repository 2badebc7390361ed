"""The page on metrics, from the registries that expose them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from sled_edge.metrics import EdgeMetrics
from sled_verifier.backend import BackendStats
from sled_verifier.gpu.base import GpuReading
from sled_verifier.gpu.fake import FakeGpus
from sled_verifier.metrics import Metrics
from sled_verifier.rounds import Load

INTRODUCTION = """# Metrics

Generated from the registries in `sled_verifier.metrics` and `sled_edge.metrics` by `make docs`.

Both processes serve `/metrics` in Prometheus' text format: the verifier on `metricsListen`, a device on its local API.
Counters are exposed with the suffix `_total`. The verifier uses vLLM's names where vLLM has one, so its dashboards work;
acceptance rate is `accepted_tokens / draft_tokens`, and the mean acceptance length, bonus included,
`1 + accepted_tokens / drafts`.

The `sled_gpu_` gauges are there where the target may run on an NVIDIA GPU (engine `vllm`, `torch` with a `device`,
`llamacpp` with a `library`) and the package nvidia-ml-py (extra `verifier-nvidia`) finds its driver; otherwise one log
line says why not. They have not been read on a GPU yet.
"""


def rows(registry: CollectorRegistry) -> list[str]:
    """One table row per metric family, sorted by name."""
    lines = []
    for family in sorted(registry.collect(), key=lambda family: family.name):
        if family.name.startswith(("process_", "python_")):
            continue
        # A labelled family without children has no samples, so the names come from its collector.
        collector = registry._names_to_collectors.get(family.name)
        shown = {label for sample in family.samples for label in sample.labels} - {"le"}
        labels = sorted({*getattr(collector, "_labelnames", ()), *shown})
        name = f"{family.name}_total" if family.type == "counter" else family.name
        lines.append(f"| `{name}` | {family.type} | {', '.join(labels)} | {family.documentation} |")
    return lines


def page() -> str:
    """The whole page."""
    verifier = Metrics("model")
    idle = BackendStats(Load(), 0, 0, 0, 0.0, 0.0, 0.0, 0, 0, 0, 0, 0, 0)
    verifier.watch(lambda: idle, lambda: 0)
    verifier.watch_gpus(FakeGpus([GpuReading("", "", 0, 0, 0.0, 0.0)]))
    parts = [INTRODUCTION]
    for title, registry in (("Verifier", verifier.registry), ("Device", EdgeMetrics().registry)):
        parts.append(f"## {title}\n\n| metric | type | labels | meaning |\n|---|---|---|---|")
        parts.append("\n".join(rows(registry)) + "\n")
    return "\n".join(parts)
