"""The schemas in crds/ and the models say the same, seen from both ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sled_operator.spec import EdgeDrafterSpec, SLEDServerSpec
from sled_operator.spec.base import Spec
from sled_operator.spec.crd import KINDS, Kind, render

CRDS = Path(__file__).parents[3] / "crds"


def schema(kind: Kind) -> dict[str, Any]:
    document = yaml.safe_load((CRDS / f"{kind.singular}.yaml").read_text(encoding="utf-8"))
    (version,) = document["spec"]["versions"]
    return version["schema"]["openAPIV3Schema"]


def nodes(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in node:
            yield from nodes(node[key], f"{path}[]")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_the_files_are_what_the_models_render(kind: Kind) -> None:
    assert (CRDS / f"{kind.singular}.yaml").read_text(encoding="utf-8") == render(kind)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_every_field_is_described_and_typed(kind: Kind) -> None:
    spec = schema(kind)["properties"]
    bare = [
        path
        for part in ("spec", "status")
        for path, node in nodes(spec[part], part)
        if not path.endswith("[]") and "description" not in node
    ]
    assert bare == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_there_are_no_floats_and_no_unbounded_containers(kind: Kind) -> None:
    for path, node in nodes(schema(kind)["properties"]["spec"]):
        assert node.get("type") != "number", path
        if node.get("type") == "array":
            assert "maxItems" in node, path
        if "additionalProperties" in node:
            assert "maxProperties" in node, path
        if node.get("type") == "string":
            assert "maxLength" in node or "enum" in node, path


MODELS = [("SLEDServer", SLEDServerSpec), ("EdgeDrafter", EdgeDrafterSpec)]


def fields(model: type[Spec], path: str = "") -> Iterator[str]:
    """The paths that pydantic itself knows, without going through its JSON schema."""
    for field in model.model_fields.values():
        here = f"{path}.{field.alias}"
        yield here
        for part in parts(field.annotation):
            yield from fields(part, here + ("[]" if "tuple" in str(field.annotation) else ""))


def parts(annotation: Any) -> list[type[Spec]]:
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return [annotation]
    arguments = getattr(annotation, "__args__", ())
    return [part for argument in arguments for part in parts(argument)]


@pytest.mark.parametrize(("name", "model"), MODELS)
def test_schema_and_model_have_the_same_fields(name: str, model: type[Spec]) -> None:
    (kind,) = (kind for kind in KINDS if kind.kind == name)
    known = {path for path, _ in nodes(schema(kind)["properties"]["spec"])}
    assert {path for path in known if path and not path.endswith("[]")} == set(fields(model))


@pytest.mark.parametrize(("name", "model"), MODELS)
def test_schema_and_model_have_the_same_defaults(name: str, model: type[Spec]) -> None:
    (kind,) = (kind for kind in KINDS if kind.kind == name)
    properties = schema(kind)["properties"]["spec"]["properties"]
    for field in model.model_fields.values():
        if field.is_required() or field.alias == "podTemplate":
            continue
        default = field.get_default(call_default_factory=True)
        want = (
            default.model_dump(by_alias=True, mode="json") if isinstance(default, Spec) else default
        )
        got = filled(properties[str(field.alias)])
        assert (got or None) == (plain(want) or None), field.alias


def filled(node: dict[str, Any]) -> Any:
    """What the API server makes of an absent field."""
    if "default" not in node:
        return None
    if node.get("type") != "object" or "properties" not in node:
        return node["default"]
    filled_fields = {name: filled(child) for name, child in node["properties"].items()}
    return {name: value for name, value in filled_fields.items() if value is not None}


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items() if item not in (None, {})} or None
    return list(value) if isinstance(value, tuple) else value


def test_the_scale_subresource_points_at_real_fields() -> None:
    document = yaml.safe_load((CRDS / "sledserver.yaml").read_text(encoding="utf-8"))
    (version,) = document["spec"]["versions"]
    root = version["schema"]["openAPIV3Schema"]
    for path in version["subresources"]["scale"].values():
        node = root
        for part in path.strip(".").split("."):
            node = node["properties"][part]
