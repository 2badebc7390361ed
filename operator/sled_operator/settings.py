"""Settings of the operator process, from the environment. A bad value stops the process at
start."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass


class InvalidSettings(ValueError):
    """A variable holds nonsense; the message names it and says what is allowed."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the chart sets; each field is the variable `SLED_` + its name in capitals."""

    verifier_image: str = "sled-verifier:latest"
    """Image of verifiers whose SLEDServer names none."""
    verifier_vllm_image: str = "sled-verifier-vllm:latest"
    """The same for the engines that need torch: VLLM and Torch."""
    edge_image_cpu: str = "sled-edge:latest"
    """Image of drafters on the runtime variant cpu; likewise cuda and l4t."""
    edge_image_cuda: str = "sled-edge-cuda:latest"
    edge_image_l4t: str = "sled-edge-l4t:latest"
    watch_namespace: str = ""
    """Only resources of this namespace; empty = all of them."""
    lease_namespace: str = "default"
    """Where the leader lease lives: the operator's own namespace."""
    lease_name: str = "sled-operator"
    identity: str = ""
    """Name of this replica in the lease; empty = the host name."""
    pod_ip: str = ""
    """Address at which devices may knock for a server that is scaled to zero; empty = no
    knocking."""
    http_port: int = 8080
    """Port of /metrics, /healthz and /readyz."""
    workers: int = 4
    """Resources looked at at the same time."""
    resync_seconds: int = 600
    """How often every resource is looked at even if nothing changed."""
    stats_seconds: int = 15
    """How often verifiers are asked how they are."""
    log_level: str = "info"

    def verifier_image_of(self, engine_kind: str) -> str:
        """The verifier's image with this engine in it."""
        torch = engine_kind in ("VLLM", "Torch")
        return self.verifier_vllm_image if torch else self.verifier_image

    @property
    def edge_images(self) -> dict[str, str]:
        """Drafter images by runtime variant."""
        return {
            "cpu": self.edge_image_cpu,
            "cuda": self.edge_image_cuda,
            "l4t": self.edge_image_l4t,
        }


_BOUNDS = {
    "http_port": (1, 65_535),
    "workers": (1, 64),
    "resync_seconds": (10, 86_400),
    "stats_seconds": (1, 600),
}
_LEVELS = ("debug", "info", "warning", "error")


def from_environment(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings.

    Raises:
        InvalidSettings: an unknown level, a number out of bounds, an empty image.
    """
    values: dict[str, str | int] = {}
    for name in Settings.__slots__:
        text = environment.get(f"SLED_{name.upper()}")
        if text is None:
            continue
        values[name] = _number(name, text) if name in _BOUNDS else text
        if not text and "image" in name:
            raise InvalidSettings(f"SLED_{name.upper()} is empty")
    level = values.get("log_level", "info")
    if level not in _LEVELS:
        raise InvalidSettings(f"SLED_LOG_LEVEL is {level!r}; allowed: {', '.join(_LEVELS)}")
    values.setdefault("identity", "")
    if not values["identity"]:
        values["identity"] = socket.gethostname()
    build: Callable[..., Settings] = Settings
    return build(**values)


def _number(name: str, text: str) -> int:
    low, high = _BOUNDS[name]
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise InvalidSettings(f"SLED_{name.upper()} is {text!r}; allowed: {low} to {high}")
    return value
