"""Renders the CustomResourceDefinitions from the models, so that the schema of the API server and
the parser cannot drift apart.

`python -m sled_operator.spec.crd DIR` writes `sledserver.yaml` and `edgedrafter.yaml`; a test
checks that `crds/` is what it writes. Must not hold a fact about a field: those live on the field.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sled_operator.spec.base import GROUP, NAME_RULES, VERSION, Spec
from sled_operator.spec.edgedrafter import EdgeDrafter, EdgeDrafterSpec
from sled_operator.spec.sledserver import SLEDServer, SLEDServerSpec
from sled_operator.spec.status import EdgeDrafterStatus, SLEDServerStatus

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """What a CRD says beyond its schema."""

    kind: str
    plural: str
    singular: str
    short_names: tuple[str, ...]
    summary: str
    spec: type[Spec]
    status: type[Spec]
    columns: tuple[tuple[str, str, str, int], ...]
    """Name, type, JSON path, priority (1 = only with `-o wide`)."""
    scale: bool = False


def _condition(name: str, field: str) -> str:
    return f".status.conditions[?(@.type=='{name}')].{field}"


_AGE = ("Age", "date", ".metadata.creationTimestamp", 0)

KINDS = (
    Kind(
        "SLEDServer",
        "sledservers",
        "sledserver",
        ("sled",),
        str(SLEDServer.__doc__),
        SLEDServerSpec,
        SLEDServerStatus,
        (
            ("Model", "string", ".spec.model.name", 0),
            ("Ready", "string", _condition("Ready", "status"), 0),
            ("Reason", "string", _condition("Ready", "reason"), 0),
            ("Replicas", "integer", ".status.readyReplicas", 0),
            ("Desired", "integer", ".status.replicas", 0),
            ("Scaling", "string", ".status.autoscaling.reason", 1),
            ("Engine", "string", ".spec.engine.kind", 1),
            ("Address", "string", ".status.address", 1),
            ("Message", "string", _condition("Ready", "message"), 1),
            _AGE,
        ),
        scale=True,
    ),
    Kind(
        "EdgeDrafter",
        "edgedrafters",
        "edgedrafter",
        ("drafter",),
        str(EdgeDrafter.__doc__),
        EdgeDrafterSpec,
        EdgeDrafterStatus,
        (
            ("Server", "string", ".spec.server.name", 0),
            ("Ready", "string", _condition("Ready", "status"), 0),
            ("Reason", "string", _condition("Ready", "reason"), 0),
            ("Nodes", "string", ".status.summary", 0),
            ("Unassigned", "integer", ".status.nodes.unassigned", 0),
            ("Offline", "integer", ".status.nodes.offline", 1),
            ("Rollout", "string", ".status.rollout.state", 1),
            ("Wave", "string", ".status.rollout.wave", 1),
            ("Objective", "string", ".spec.objective", 1),
            ("Message", "string", _condition("Ready", "message"), 1),
            _AGE,
        ),
    ),
)


def structural(model: type[Spec]) -> Json:
    """The model as a structural schema: references inlined, optional fields without null, rules
    attached."""
    schema = model.model_json_schema(by_alias=True)
    return _convert(schema, schema.get("$defs", {}), {d.__name__: d for d in _parts(model)})


def definition(kind: Kind) -> Json:
    """The CustomResourceDefinition of one kind."""
    version: Json = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [
            {"name": name, "type": type_, "jsonPath": path}
            | ({"priority": priority} if priority else {})
            for name, type_, path, priority in kind.columns
        ],
        "subresources": {"status": {}},
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "description": kind.summary.split("\n")[0],
                "required": ["spec"],
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "metadata": {"type": "object"},
                    "spec": structural(kind.spec),
                    # until the operator has looked: without it Flux takes a new resource for healthy
                    "status": structural(kind.status) | {"default": {"observedGeneration": 0}},
                },
                "x-kubernetes-validations": [
                    {"rule": rule.cel, "message": rule.message} for rule in NAME_RULES
                ],
            }
        },
    }
    if kind.scale:
        version["subresources"]["scale"] = {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{kind.plural}.{GROUP}",
            "labels": {"app.kubernetes.io/part-of": "sled"},
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.singular,
                "shortNames": list(kind.short_names),
                "categories": ["sleds"],  # not `sled`: kubectl could then get no server by name
            },
            "versions": [version],
        },
    }


def _parts(model: type[Spec]) -> list[type[Spec]]:
    """Every Spec class: names are unique, so that a `$ref` finds its class."""
    found, queue = [], [Spec]
    while queue:
        part = queue.pop()
        found.append(part)
        queue.extend(part.__subclasses__())
    return [model, *found]


def _convert(node: Json, defs: Json, parts: dict[str, type[Spec]]) -> Json:
    if "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[1]
        rest = {key: value for key, value in node.items() if key != "$ref"}
        return _convert(defs[name] | rest, defs, parts)
    if "anyOf" in node:
        return _convert_union(node, defs, parts)
    result: Json = {}
    if "type" in node:
        result["type"] = node["type"]
    description = str(node.get("description", ""))
    if description:
        result["description"] = " ".join(description.split())
    for key in ("enum", "format", "pattern", "minimum", "maximum", "minLength", "maxLength"):
        if key in node:
            result[key] = node[key]
    if "const" in node:
        result["enum"] = [node["const"]]
    for key in ("minItems", "maxItems", "minProperties", "maxProperties", "x-kubernetes-list-type"):
        if key in node:
            result[key] = node[key]
    if "x-kubernetes-list-map-keys" in node:
        result["x-kubernetes-list-map-keys"] = list(node["x-kubernetes-list-map-keys"])
    _convert_children(node, result, defs, parts)
    if "default" in node and node["default"] is not None:
        result["default"] = node["default"]
    return result


def _convert_union(node: Json, defs: Json, parts: dict[str, type[Spec]]) -> Json:
    """`X | None` is X without a default; `int | str` is Kubernetes' own int-or-string."""
    rest = {key: value for key, value in node.items() if key not in ("anyOf", "default")}
    members = [member for member in node["anyOf"] if member.get("type") != "null"]
    if len(members) == 1:
        return _convert(members[0] | rest, defs, parts)
    pattern = next(member["pattern"] for member in members if "pattern" in member)
    return {
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "pattern": pattern,
        "x-kubernetes-int-or-string": True,
    }


def _convert_children(node: Json, result: Json, defs: Json, parts: dict[str, type[Spec]]) -> None:
    if "items" in node:
        result["items"] = _convert(node["items"], defs, parts)
    if node.get("x-sled-opaque"):
        result["x-kubernetes-preserve-unknown-fields"] = True
    elif isinstance(node.get("additionalProperties"), dict):
        result["additionalProperties"] = _convert(node["additionalProperties"], defs, parts)
    if "properties" in node:
        if "required" in node:
            result["required"] = list(node["required"])
        required = node.get("required", ())
        result["properties"] = {
            name: _property(child, name in required, defs, parts)
            for name, child in node["properties"].items()
        }
        rules = parts[node["title"]].rules
        if rules:
            result["x-kubernetes-validations"] = [
                {"rule": rule.cel, "message": rule.message} for rule in rules
            ]


def _property(node: Json, required: bool, defs: Json, parts: dict[str, type[Spec]]) -> Json:
    """A field; one that a factory makes defaults to the defaults within it, written out: the API
    server checks a default against the CEL rules before it fills it in."""
    converted = _convert(node, defs, parts)
    if "$ref" in node and not required:
        children = converted["properties"]
        filled = {name: each["default"] for name, each in children.items() if "default" in each}
        converted.setdefault("default", filled)
    return converted


class _Dumper(yaml.SafeDumper):
    """Indents lists, never writes aliases."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: object) -> bool:
        return True


def render(kind: Kind) -> str:
    """The file of one kind."""
    body = yaml.dump(
        definition(kind), Dumper=_Dumper, sort_keys=False, width=140, allow_unicode=True
    )
    return (
        f"# Generated by `make crds` from sled_operator.spec, which describes each field.\n{body}"
    )


def main(folder: Path) -> None:
    """Write the files of all kinds into `folder`."""
    for kind in KINDS:
        (folder / f"{kind.singular}.yaml").write_text(render(kind), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
