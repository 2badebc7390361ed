"""What kind of hardware a node is, from its labels, architecture and capacity. Pure.

Labels of ours win; then what GPU feature discovery and node feature discovery say; then what the
capacity suggests. A class decides the runtime variant (which image) and the drafter's threads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

LABEL = "sled.dev/device-class"
_VALID = re.compile(r"^[a-z0-9]([-a-z0-9]{0,18}[a-z0-9])?$")
_GPU_PRODUCT = "nvidia.com/gpu.product"
_NFD_MODEL = "feature.node.kubernetes.io/system-dmi.product-name"
_JETSONS = (
    ("orin-nano", "orin-nano"),
    ("orin-nx", "orin-nx"),
    ("orin", "orin"),
    ("xavier", "xavier"),
)


_CORES = {"pi4": 4, "pi5": 4, "orin-nano": 6, "orin-nx": 8, "orin": 12, "xavier": 8, "x86": 4}
_UNKNOWN_CORES = 3


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a node says of itself."""

    name: str
    labels: Mapping[str, str]
    architecture: str
    cpus: int
    memory_mib: int
    """Allocatable."""


@dataclass(frozen=True, slots=True)
class DeviceClass:
    """A kind of hardware."""

    name: str
    variant: str
    """Runtime variant: `cpu`, `cuda` or `l4t`."""
    threads: int
    """CPU threads that a drafter may use: one core stays for everything else."""


def classify(facts: NodeFacts) -> DeviceClass:
    """The class of a node; always finds one."""
    return device_class(_name(facts))


def device_class(name: str) -> DeviceClass:
    """The class of that name: everything about a class follows from its name, so that all its
    nodes share one DaemonSet. A name of your own ends in `-cuda` or `-l4t` to get that runtime."""
    variant = "cpu"
    if name.endswith("-cuda"):
        variant = "cuda"
    elif name.endswith("-l4t") or any(name == jetson for _, jetson in _JETSONS):
        variant = "l4t"
    return DeviceClass(name, variant, max(1, _CORES.get(name, _UNKNOWN_CORES) - 1))


def _name(facts: NodeFacts) -> str:
    own = facts.labels.get(LABEL, "")
    if _VALID.match(own):
        return own
    product = facts.labels.get(_GPU_PRODUCT, "").lower().replace(" ", "-")
    for part, name in _JETSONS:
        if part in product:
            return name
    model = facts.labels.get(_NFD_MODEL, "").lower()
    if "raspberry" in model:
        return "pi5" if "5" in model else "pi4"
    if facts.architecture == "arm64":
        return "pi5" if facts.memory_mib > 9_000 else "arm64"
    return "x86-cuda" if product else "x86"
