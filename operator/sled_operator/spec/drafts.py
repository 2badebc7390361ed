"""The catalogue of draft models in an EdgeDrafter. Holds the shape and its rules; choosing among
them is `sled_operator.assignment`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from sled_operator.spec.base import (
    Argument,
    ModelName,
    ObjectName,
    Rule,
    Sha256,
    Source,
    Spec,
    unique,
)

DeviceClass = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=20)
]
"""A kind of hardware: `pi4`, `pi5`, `orin-nano`, `x86`, …, or one of yours."""
DraftName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=32)
]
"""Short enough to stand beside class and revision in one label value."""


class Speed(Spec):
    """How a draft model runs on one class of device."""

    device_class: DeviceClass
    """The class, or `default` for classes not listed."""
    tokens_per_second_milli: Annotated[int, Field(ge=1, le=1_000_000_000)]
    """Draft tokens per second, in thousandths."""
    millijoules_per_token: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    """Energy of one draft token; 0 = unknown."""


class Profile(Spec):
    """What is known of a draft model before it has run; measurements of the fleet correct it."""

    memory_mib: Annotated[int, Field(ge=1, le=1_048_576)] = 64
    """Memory that the drafter needs, model and context together."""
    acceptance_permille: Annotated[int, Field(ge=0, le=1000)] = 600
    """Draft tokens that the target keeps, of a thousand."""
    speeds: Annotated[
        tuple[Speed, ...],
        Field(
            max_length=32,
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["deviceClass"],
            },
        ),
        unique("device_class"),
    ] = ()
    """Speed by device class."""


class Draft(Spec):
    """One draft model that a node may be given."""

    rules = (
        Rule(
            "(self.kind == 'LlamaCpp') == has(self.source)",
            "source belongs to draft kind LlamaCpp, which needs it, and to no other",
            lambda self: (self.kind == "LlamaCpp") == (self.source is not None),
        ),
    )

    name: DraftName
    """Name in this catalogue; part of the DaemonSet's name."""
    kind: Literal["LlamaCpp", "NGram", "Fake"] = "LlamaCpp"
    """LlamaCpp: a GGUF model. NGram: prompt lookup, for devices with no room for a model. Fake: for
    tests."""
    model: ModelName | None = None
    """Model name in metrics; omitted means `name`."""
    source: Source | None = None
    """Where the model comes from, as in SLEDServer's model.source."""
    sha256: Sha256 | None = None
    """Checksum of the file; a download that differs is refused."""
    credentials_secret_name: ObjectName | None = None
    """Secret whose keys become environment variables of the download, as in SLEDServer's model."""
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    """CPU threads; 0 = the container's CPU limit, or all of the node's cores but one."""
    context_tokens: Annotated[int, Field(ge=64, le=1_048_576)] = 4096
    """Tokens that one sequence may hold."""
    architectures: Annotated[tuple[Literal["amd64", "arm64"], ...], Field(max_length=2)] = ()
    """Node architectures that it runs on; empty means all."""
    device_classes: Annotated[tuple[DeviceClass, ...], Field(max_length=32)] = ()
    """Device classes that may be given it; empty means all."""
    profile: Profile = Field(default_factory=Profile)
    """What is known of it before it has run."""
    args: Annotated[tuple[Argument, ...], Field(max_length=64)] = ()
    """Further arguments of the drafter."""
