"""Writes the figures of a demonstration as `bench/results/demo.json` has them: one flat object."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from sled_cli.demo.summary import Figures
from sled_cli.errors import CliError

GIT_SECONDS = 10


def write_record(file: Path, result: Figures, command: str) -> None:
    """Write the record.

    Raises:
        CliError: the file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record(result, command), indent=1) + "\n", "utf-8")
    except OSError as error:
        raise CliError(f"{file}: cannot be written: {error}") from error


def record(result: Figures, command: str) -> dict[str, Any]:
    """The flat object: figures, then kind, machine, commit and command."""
    return {
        "texts": result.texts,
        "texts_identical": result.identical,
        "output_tokens": result.output_tokens,
        "target_passes": result.passes,
        "target_passes_alone": result.passes_alone,
        "passes_saved_percent": round(result.passes_saved_percent, 1),
        "tokens_per_pass": round(result.tokens_per_pass, 3),
        "engine_steps": result.steps,
        "acceptance_percent": round(100 * result.acceptance, 1),
        "link_bytes_per_token": round(result.link_bytes_per_token, 1),
        "fleet_tokens_per_second": round(result.fleet_tokens_per_second, 2),
        "target_alone_tokens_per_second": round(result.target_alone_tokens_per_second, 2),
        "seconds": round(result.seconds, 1),
        "kind": "measured",
        "machine": machine(),
        "commit": commit(),
        "command": command,
    }


def machine() -> str:
    """Processor, cores and system, as a reader needs them to judge the figures."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"


def commit() -> str:
    """The commit of this checkout, with `+changes` when files differ from it; or `unknown`."""
    git = shutil.which("git")
    if git is None:
        return "unknown"

    def run(*words: str) -> str:
        done = subprocess.run(
            [git, *words],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            check=False,
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        head = run("rev-parse", "--short=12", "HEAD")
        changes = run("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return f"{head}{'+changes' if changes else ''}" if head else "unknown"
