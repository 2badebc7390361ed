"""Result files: a flat object of figures with the machine, the commit and the command that made them."""

from __future__ import annotations

import csv
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "bench" / "results"

Figures = Mapping[str, float | int | str]


def machine() -> str:
    """Name of the processor and the number of its cores, with what decides how fast bf16 is."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    named = {name.strip(): value.strip() for name, value in fields.items()}
    flags = named.get("flags", "").split()
    vectors = next((f for f in ("avx512_bf16", "avx512f", "avx2") if f in flags), "")
    name = named.get("model name", platform.machine())
    cores = f"{os.cpu_count()} cores"
    return ", ".join(part for part in (name, cores, vectors.upper().replace("_", " ")) if part)


def commit() -> str:
    """The commit that this tree stands on."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=12", "--dirty=+changes"]
    done = subprocess.run([*command, "--exclude=*"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def write(name: str, figures: Figures, kind: str, folder: Path = RESULTS) -> None:
    """Write `NAME.json` and print the figures. `kind` is `measured` or `simulated`."""
    document = {
        **{key: _rounded(value) for key, value in figures.items()},
        "kind": kind,
        "machine": machine(),
        "commit": commit(),
        "command": shlex.join(["python", *_own_arguments()]),
    }
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=2)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(text, flush=True)


def write_rows(name: str, rows: Sequence[Mapping[str, Any]], folder: Path = RESULTS) -> None:
    """Write `NAME.csv`: one line for each measurement behind the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: _rounded(v) for k, v in row.items()} for row in rows)


def _own_arguments() -> list[str]:
    script = Path(sys.argv[0]).resolve()
    if script.name == "__main__.py":
        script = script.parent
    inside = script.is_relative_to(ROOT)
    return [str(script.relative_to(ROOT)) if inside else script.name, *sys.argv[1:]]


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
