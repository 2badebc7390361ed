"""Writes the generated parts of the chart: the copy of the resource definitions, and README.md.

`python charts/generate.py` writes them, `--check` fails when a file is not what it would write.
crds/ and the comments of values.yaml are the truth. Must not invent text of its own about a value.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
CHART = HERE / "sled"
CRDS = HERE.parent / "crds"
_SECTION = "# @section "


class ValuesUndocumented(ValueError):
    """A value has no comment above it."""


@dataclass(frozen=True, slots=True)
class Value:
    """One row of the values table."""

    path: str
    default: str
    description: str


@dataclass(frozen=True, slots=True)
class Section:
    """Values under one heading."""

    title: str
    values: list[Value]


def crd_template(text: str) -> str:
    """A definition as a template: behind `crds.enabled`, kept on uninstall by `crds.keep`."""
    body = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    if "{{" in body:
        raise ValueError("a resource definition holds `{{`, which Helm would evaluate")
    keep = (
        "  {{- if .Values.crds.keep }}\n"
        "  annotations:\n"
        "    helm.sh/resource-policy: keep\n"
        "  {{- end }}\n"
    )
    head, separator, tail = body.partition("metadata:\n")
    return (
        "{{- /* Generated from crds/ by charts/generate.py. */}}\n"
        "{{- if .Values.crds.enabled }}\n"
        f"{head}{separator}{keep}{tail}\n"
        "{{- end }}\n"
    )


def sections(text: str) -> list[Section]:
    """Read values.yaml: comments above a key describe it; `# @section` starts a heading."""
    found = [Section("General", [])]
    comment: list[str] = []
    path: list[tuple[int, str]] = []
    lines = text.splitlines()[2:]  # the file's own heading and the blank line after it
    for number, line in enumerate(lines):
        stripped = line.strip()
        if stripped.startswith(_SECTION):
            found.append(Section(stripped.removeprefix(_SECTION), []))
            comment = []
        elif stripped.startswith("#"):
            comment.append(stripped.lstrip("# "))
        elif ":" in stripped:
            indent = len(line) - len(line.lstrip())
            path = [each for each in path if each[0] < indent]
            path.append((indent, stripped.partition(":")[0]))
            if comment:
                name = ".".join(key for _, key in path)
                found[-1].values.append(Value(name, "", " ".join(comment)))
            elif not _has_children(lines, number, indent) and not _covered(found[-1], path):
                raise ValuesUndocumented(f"{'.'.join(key for _, key in path)} has no comment")
            comment = []
    return [section for section in found if section.values]


def _has_children(lines: list[str], number: int, indent: int) -> bool:
    following = lines[number + 1] if number + 1 < len(lines) else ""
    return len(following) - len(following.lstrip()) > indent


def _covered(section: Section, path: list[tuple[int, str]]) -> bool:
    """Whether a comment above an enclosing key speaks for this one."""
    names = {value.path for value in section.values}
    return any(".".join(key for _, key in path[:depth]) in names for depth in range(1, len(path)))


def readme(values_text: str, chart: dict[str, Any], intro: str) -> str:
    """The whole README."""
    values = yaml.safe_load(values_text)
    parts = [intro.replace("@VERSION@", str(chart["version"])).rstrip(), "", "## Values", ""]
    for section in sections(values_text):
        parts += [f"### {section.title}", "", "| Value | Default | Meaning |", "|---|---|---|"]
        for value in section.values:
            default = json.dumps(_at(values, value.path)).replace("|", "\\|")
            parts.append(f"| `{value.path}` | `{default}` | {value.description} |")
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def _at(values: dict[str, Any], path: str) -> Any:
    found: Any = values
    for key in path.split("."):
        found = found[key]
    return found


def outputs() -> Iterator[tuple[Path, str]]:
    """Every generated file with its text."""
    for source in sorted(CRDS.glob("*.yaml")):
        yield CHART / "templates" / "crds" / source.name, crd_template(source.read_text())
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    values = (CHART / "values.yaml").read_text()
    yield CHART / "README.md", readme(values, chart, (HERE / "README.intro.md").read_text())


def main(arguments: list[str]) -> int:
    """Write, or with `--check` compare; returns 1 when something differs."""
    stale = 0
    for path, text in outputs():
        present = path.read_text() if path.exists() else ""
        if present == text:
            continue
        if "--check" in arguments:
            stale = 1
            name = str(path.relative_to(HERE.parent))
            changes = difflib.unified_diff(present.splitlines(), text.splitlines(), name, "wanted")
            print("\n".join(list(changes)[:40]))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    if stale:
        print("run `python charts/generate.py`")
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
