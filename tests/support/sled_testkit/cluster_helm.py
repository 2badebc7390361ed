"""Run the pinned Helm against a test cluster, with its own cache and configuration folders.

Why: chart tests must not read or change what Helm keeps in the developer's home. Must not add chart
repositories: the chart has no dependencies and tests need no network.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

from sled_testkit import cluster_tools


class HelmFailed(RuntimeError):
    """Helm refused; the message is what it printed."""


class Helm:
    """Helm with one kubeconfig (None: only commands that need no cluster)."""

    def __init__(self, folder: Path, kubeconfig: Path | None = None) -> None:
        self._program = cluster_tools.find("helm")
        self._folder = folder
        self._kubeconfig = kubeconfig

    def run(self, *arguments: str, values: dict[str, Any] | None = None) -> str:
        """Run one command; `values` become a values file on standard input."""
        source = [] if values is None else ["--values", "-"]
        done = subprocess.run(
            [str(self._program), *arguments, *source],
            input=None if values is None else yaml.safe_dump(values),
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
            env=self.environment(),
        )
        if done.returncode != 0:
            raise HelmFailed(f"helm {' '.join(arguments)}: {done.stderr.strip() or done.stdout}")
        return done.stdout

    def template(
        self, chart: Path, *flags: str, values: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """The objects that the chart renders to, hooks included."""
        text = self.run("template", "sled", str(chart), *flags, values=values)
        return [document for document in yaml.safe_load_all(text) if document]

    def environment(self) -> dict[str, str]:
        """What Helm runs with: its own folders, this cluster's kubeconfig."""
        own = {
            "HELM_CACHE_HOME": str(self._folder / "helm-cache"),
            "HELM_CONFIG_HOME": str(self._folder / "helm-config"),
            "HELM_DATA_HOME": str(self._folder / "helm-data"),
        }
        environment = {key: value for key, value in os.environ.items() if key != "KUBECONFIG"}
        if self._kubeconfig is not None:
            own["KUBECONFIG"] = str(self._kubeconfig)
        return {**environment, **own}
