"""What every model of a resource shares: frozen, camelCase on the wire, rules that exist once for
Python and for the API server.

Must not know any concrete kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

GROUP = "sled.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"


class InvalidResource(ValueError):
    """A document is not a valid resource.

    `field` is the path in the document (`spec.rollout.waves[1].percent`), `sentence` says what is
    wrong with it and what is allowed.
    """

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(f"{field}: {sentence}")
        self.field = field
        self.sentence = sentence


@dataclass(frozen=True, slots=True)
class Rule:
    """One cross-field rule, in CEL for the API server and as a predicate for Python; both say the
    same.

    `holds` is None for transition rules (they mention `oldSelf`), which only the API server can
    judge.
    """

    cel: str
    message: str
    holds: Callable[[Any], bool] | None = None


def require(rules: tuple[Rule, ...], value: object) -> None:
    """Raise the first rule that does not hold, in pydantic's way."""
    for rule in rules:
        if rule.holds is not None and not rule.holds(value):
            raise PydanticCustomError("rule", "{sentence}", {"sentence": rule.message})


def _to_camel(name: str) -> str:
    """camelCase as Kubernetes writes it, with the unit MiB kept whole."""
    return to_camel(name).replace("Mib", "MiB")


def unique(key: str) -> AfterValidator:
    """A list whose elements differ in `key`, as `x-kubernetes-list-map-keys` has it."""

    def check(values: tuple[Any, ...]) -> tuple[Any, ...]:
        seen = set()
        for value in values:
            name = getattr(value, key)
            if name in seen:
                raise PydanticCustomError("twice", "'{name}' is there twice", {"name": name})
            seen.add(name)
        return values

    return AfterValidator(check)


class Spec(BaseModel):
    """Base of all parts of a spec."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=_to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        require(self.rules, self)
        return self


_NAME = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?$")

NAME_RULES = (
    Rule(
        "size(self.metadata.name) <= 40",
        "the name has at most 40 characters, because the names of all its objects begin with it",
        lambda self: len(self.name) <= 40,
    ),
    Rule(
        f"self.metadata.name.matches('{_NAME.pattern}')",
        "the name begins with a letter and has no dots, because a Service is named after it",
        lambda self: _NAME.match(self.name) is not None,
    ),
)


class Metadata(BaseModel):
    """The metadata fields that SLED reads; the rest is ignored."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True
    )

    name: Annotated[str, StringConstraints(max_length=253)]
    namespace: str = "default"
    uid: str = ""
    generation: int = 0
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        require(NAME_RULES, self)
        return self


DnsName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=63)
]
"""An RFC 1123 label: what names a Service, a DaemonSet or a wave."""
ObjectName = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", min_length=1, max_length=253),
]
"""An RFC 1123 subdomain: the name of a Secret, a claim, a storage class."""
ModelName = Annotated[
    str,
    StringConstraints(
        pattern=r"^[A-Za-z0-9]([-A-Za-z0-9._/:]*[A-Za-z0-9])?$", min_length=1, max_length=128
    ),
]
"""What clients call a model."""
Source = Annotated[
    str,
    StringConstraints(
        pattern=r"^(hf|oci|pvc|s3|file|catalog)://[^\s]+$", min_length=6, max_length=1024
    ),
]
"""Where a model comes from."""
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$", min_length=64, max_length=64)]
Image = Annotated[str, StringConstraints(pattern=r"^[^\s]+$", min_length=1, max_length=512)]
LabelKey = Annotated[str, StringConstraints(min_length=1, max_length=317)]
LabelValue = Annotated[str, StringConstraints(max_length=63)]
Quantity = Annotated[
    str,
    StringConstraints(
        pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$", min_length=1, max_length=32
    ),
]
"""A Kubernetes quantity, such as `500m` or `20Gi`."""
Argument = Annotated[str, StringConstraints(max_length=1024)]
