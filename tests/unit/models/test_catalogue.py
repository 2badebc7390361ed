from __future__ import annotations

import pytest
from pydantic import ValidationError

from sled_cli.models.catalogue import (
    DerivedOrigin,
    PackageOrigin,
    default_catalogue,
    parse_catalogue,
)
from sled_cli.models.errors import UnknownModel

GOOD = """
models:
  base:
    origin: {kind: package, requirement: a==1, member: a/b.gguf}
    sha256: "SHA"
    bytes: 10
    licence: MIT
    note: ""
  copy:
    origin: {kind: derived, base: base, weightType: F32}
    sha256: "SHA"
    bytes: 10
    licence: MIT
    note: ""
""".replace("SHA", "0" * 64)


def test_the_shipped_catalogue_is_sound() -> None:
    models = default_catalogue().models
    assert {"smollm2-135m-q4_1", "smollm2-135m-f32", "smollm2-135m-q4_0"} <= set(models)
    assert len({entry.sha256 for entry in models.values()}) == len(models)
    for name, entry in models.items():
        assert name == name.lower()
        if isinstance(entry.origin, DerivedOrigin):
            assert name.endswith(entry.origin.weight_type.lower())


def test_parts_are_numbered_from_one() -> None:
    origin = PackageOrigin(kind="package", requirement="p{n}==1", member="p/{n:02}.bin", parts=2)
    assert origin.pieces() == (("p1==1", "p/01.bin"), ("p2==1", "p/02.bin"))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UnknownModel, match=r"no model 'nope'; it has base, copy"):
        parse_catalogue(GOOD).entry("nope")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("kind: package", "kind: torrent"),
        ("bytes: 10", "bytes: 0"),
        ("licence: MIT", "license: MIT"),
        ("0" * 64, "0" * 63),
        ("weightType: F32", "weightType: Q4_K"),
        ("base: base", "base: absent"),
        ("base: base", "base: copy"),
    ],
)
def test_a_wrong_field_is_refused(old: str, new: str) -> None:
    with pytest.raises((ValidationError, ValueError)):
        parse_catalogue(GOOD.replace(old, new))
