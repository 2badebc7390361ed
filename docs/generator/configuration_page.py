"""The page on verifier.yaml and edge.yaml, from the models that read them."""

from __future__ import annotations

import enum
import typing
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sled_edge.config import EdgeConfig
from sled_verifier.config import VerifierConfig

INTRODUCTION = """# Configuration of the processes

Generated from the models in `sled_verifier.config` and `sled_edge.config` by `make docs`; edit those.

On a cluster the operator writes these files, on one machine `sled up` does. Unknown keys are refused; `--check` validates a
file and ends.
"""


def type_name(annotation: object) -> str:
    """How a person would call a field's type."""
    origin = typing.get_origin(annotation)
    arguments = [a for a in typing.get_args(annotation) if a is not type(None) and a is not ...]
    if origin is typing.Annotated:
        return type_name(arguments[0])
    if origin is tuple:
        return f"list of {type_name(arguments[0])}"
    if origin is dict:
        return f"{type_name(arguments[1])} by name"
    if origin is typing.Literal:
        return " \\| ".join(f"`{value}`" for value in arguments)
    if origin is not None:
        return " or ".join(type_name(a) for a in arguments)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return " \\| ".join(f"`{member.value}`" for member in annotation)
    names: dict[object, str] = {
        str: "text",
        int: "whole number",
        float: "number",
        bool: "true or false",
        Path: "path",
    }
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def section_of(annotation: object) -> type[BaseModel] | None:
    """The nested section of a field, if it is one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in typing.get_args(annotation):
        found = section_of(argument)
        if found is not None:
            return found
    return None


def bounds(field: FieldInfo) -> str:
    """The allowed range, as far as it is declared."""
    signs = {
        "ge": "≥ ",
        "gt": "> ",
        "le": "≤ ",
        "lt": "< ",
        "min_length": "length ≥ ",
        "max_length": "length ≤ ",
    }
    parts = []
    for rule in field.metadata:
        for name, sign in signs.items():
            value = getattr(rule, name, None)
            if value is not None:
                parts.append(f"{sign}{value}")
    return ", ".join(parts)


def default_of(field: FieldInfo) -> str:
    """The default as it would stand in the file."""
    if field.is_required():
        return "required"
    if field.default_factory is not None:
        return "none" if field.default_factory is dict else "cores of the machine"
    value = field.default
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None:
        return "–"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def rows(model: type[BaseModel], prefix: str = "") -> list[str]:
    """One table row per setting, nested ones by their path."""
    lines = []
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        section = section_of(field.annotation)
        if section is not None:
            about = (field.description or section.__doc__ or "").strip()
            absent = "" if field.default is not None or field.is_required() else " May be left out."
            lines.append(f"| **`{path}`** | section | | | {' '.join(about.split())}{absent} |")
            lines.extend(rows(section, f"{path}."))
            continue
        about = " ".join((field.description or "").split())
        lines.append(
            f"| `{path}` | {type_name(field.annotation)} | {default_of(field)} | {bounds(field)} | {about} |"
        )
    return lines


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for title, model in (("verifier.yaml", VerifierConfig), ("edge.yaml", EdgeConfig)):
        parts.append(
            f"## {title}\n\n| setting | type | default | allowed | meaning |\n|---|---|---|---|---|"
        )
        parts.append("\n".join(rows(model)) + "\n")
    return "\n".join(parts)
