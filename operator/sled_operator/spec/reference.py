"""Renders the reference pages of both kinds from their schemas, and of the conditions from their
constants, so that the documentation cannot drift from what the API server enforces.

`python -m sled_operator.spec.reference DIR` writes `sledserver.md`, `edgedrafter.md` and
`conditions.md`. Must not hold a fact about a field.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sled_operator.spec.crd import KINDS, Kind, definition

Json = dict[str, Any]
_PACKAGE = Path(__file__).parents[1]
_ENUMS = (
    ("Condition types", "conditions.py", "Type"),
    ("Reasons of conditions", "conditions.py", "Reason"),
    ("Reasons of the autoscaler", "autoscaler/decision.py", "Reason"),
    ("Reasons of unassigned nodes", "assignment/assign.py", "Unfit"),
    ("States of a rollout", "rollout.py", "State"),
)
NOTE = "<!-- Written by `python -m sled_operator.spec.reference docs/reference`. -->"


def page(kind: Kind) -> str:
    """The page of one kind."""
    (version,) = definition(kind)["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    shorts = ", ".join(f"`{name}`" for name in kind.short_names)
    lines = [
        NOTE,
        f"# {kind.kind}",
        "",
        schema["description"],
        "",
        f"`apiVersion: sled.dev/v1alpha1`, namespaced. Short name {shorts}, category `sled`.",
        "",
    ]
    rules = list(_rules(schema, ""))
    for part, title in (("spec", "Spec"), ("status", "Status")):
        lines += [f"## {title}", "", "| Field | Type | Default | Meaning |", "|---|---|---|---|"]
        lines += list(_rows(schema["properties"][part], part))
        lines.append("")
        rules += list(_rules(schema["properties"][part], part))
    lines += ["## Rules", "", "Broken rules are refused at apply, with these sentences.", ""]
    lines += [f"- {f'`{path}`: ' if path else ''}{sentence}" for path, sentence in rules]
    return "\n".join(lines) + "\n"


def conditions_page() -> str:
    """The page of condition types and reasons."""
    lines = [NOTE, "# Conditions and reasons", ""]
    lines += [
        "Conditions are observations, in the form that `kubectl wait`, Argo CD and Flux read. Each",
        "carries `observedGeneration`; its transition time moves only when its status does.",
        "",
    ]
    for title, file, name in _ENUMS:
        lines += [f"## {title}", "", "| Value | Meaning |", "|---|---|"]
        lines += [f"| `{value}` | {text} |" for value, text in _members(file, name)]
        lines.append("")
    return "\n".join(lines)


def _rows(node: Json, path: str) -> Iterator[str]:
    required = set(node.get("required", ()))
    for name, child in node.get("properties", {}).items():
        here = f"{path}.{name}"
        default = child.get("default")
        shown = f"`{_plain(default)}`" if default not in (None, {}, [], "") else ""
        shown = "required" if name in required else shown
        text = child.get("description", "").replace("|", "\\|")
        yield f"| `{here}` | {_type(child)} | {shown} | {text} |"
        yield from _rows(child, here)
        if "items" in child:
            yield from _rows(child["items"], f"{here}[]")


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _type(node: Json) -> str:
    if node.get("x-kubernetes-int-or-string"):
        return "quantity"
    if "enum" in node:
        return " \\| ".join(f"`{value}`" for value in node["enum"])
    if node["type"] == "array":
        return f"list of {_type(node['items'])}"
    if node["type"] == "integer":
        low, high = node.get("minimum"), node.get("maximum")
        if high is not None:
            return f"integer, {low or 0} to {high}"
        return "integer" if low is None else f"integer, at least {low}"
    if "additionalProperties" in node:
        return f"map to {_type(node['additionalProperties'])}"
    return str(node["type"])


def _rules(node: Json, path: str) -> Iterator[tuple[str, str]]:
    for rule in node.get("x-kubernetes-validations", ()):
        yield path, rule["message"]
    if not path:
        return
    for name, child in node.get("properties", {}).items():
        yield from _rules(child, f"{path}.{name}")
        if "items" in child:
            yield from _rules(child["items"], f"{path}.{name}[]")


def _members(file: str, name: str) -> Iterator[tuple[str, str]]:
    """Values of an enum with the sentence below each, which Python does not keep at run time."""
    tree = ast.parse((_PACKAGE / file).read_text(encoding="utf-8"))
    (body,) = (
        node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name
    )
    value = ""
    for statement in body:
        constant = getattr(statement, "value", None)
        if not isinstance(constant, ast.Constant):
            continue
        if isinstance(statement, ast.Assign):
            value = str(constant.value)
        elif value:
            yield value, " ".join(str(constant.value).split())


def main(folder: Path) -> None:
    """Write all pages into `folder`."""
    for kind in KINDS:
        (folder / f"{kind.singular}.md").write_text(page(kind), encoding="utf-8")
    (folder / "conditions.md").write_text(conditions_page(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
