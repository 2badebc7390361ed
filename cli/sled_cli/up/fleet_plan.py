"""What runs where: the plan of a local fleet as frozen values. Decides nothing; `plan` does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sled_operator.spec import EdgeDrafterSpec, SLEDServerSpec
from sled_operator.spec.drafts import Draft

_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True, slots=True)
class LocalFacts:
    """What the plan depends on besides the documents."""

    cpu_count: int
    machine: str
    """As `platform.machine()` says."""
    busy_ports: frozenset[int] = frozenset()

    @property
    def architecture(self) -> str:
        """As Kubernetes names it; the machine's own word where Kubernetes has none."""
        return _ARCHITECTURES.get(self.machine.lower(), self.machine)


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model file that a process needs."""

    name: str
    source: str
    sha256: str | None


@dataclass(frozen=True, slots=True)
class VerifierPlan:
    """One replica of a SLEDServer."""

    name: str
    server: str
    """Namespace/name of the SLEDServer."""
    spec: SLEDServerSpec
    port: int
    metrics_port: int
    threads: int
    model: ModelRef | None

    @property
    def address(self) -> str:
        """Where devices reach it."""
        return f"127.0.0.1:{self.port}"

    @property
    def metrics_url(self) -> str:
        """Base of /metrics, /healthz and /readyz."""
        return f"http://127.0.0.1:{self.metrics_port}"

    @property
    def tokens(self) -> bool:
        """Whether devices must show a token."""
        return self.spec.auth.mode == "DeviceTokens"


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """One device of an EdgeDrafter."""

    name: str
    drafter: str
    """Namespace/name of the EdgeDrafter."""
    device_class: str
    spec: EdgeDrafterSpec
    draft: Draft
    port: int
    verifiers: tuple[str, ...]
    server: str | None
    """Namespace/name of the SLEDServer; None for a verifier elsewhere."""
    tokens: bool
    token_file: Path | None
    ca_file: Path | None
    model: ModelRef | None

    @property
    def url(self) -> str:
        """Base of the device's APIs."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def draft_name(self) -> str:
        """What the draft model is called in metrics."""
        return self.draft.model or self.draft.name


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """All processes, verifiers first."""

    verifiers: tuple[VerifierPlan, ...]
    devices: tuple[DevicePlan, ...]

    def models(self) -> tuple[ModelRef, ...]:
        """Every model file needed, each once."""
        needed = [v.model for v in self.verifiers] + [d.model for d in self.devices]
        return tuple(dict.fromkeys(model for model in needed if model is not None))
