"""The tutorial's commands, run one after the other, and what it says they print."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from sled_testkit import cluster_nodes, cluster_tools
from sled_testkit.cluster import ControlPlane
from sled_testkit.cluster_operator import OperatorProcess

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = ROOT / "docs" / "tutorials" / "first-cluster.md"


def steps() -> list[tuple[str, str]]:
    """Each block of commands, with what the text block after it says that they print."""
    found: list[tuple[str, str]] = []
    for kind, text in re.findall(r"^```(\w+)\n(.*?)^```$", TUTORIAL.read_text(), re.M | re.S):
        if kind == "sh":
            found.append((text, ""))
        else:
            found[-1] = (found[-1][0], text)
    return found


def environment(plane: ControlPlane) -> dict[str, str]:
    """kubectl and Helm on the path, and nothing of the developer's."""
    programs = plane.folder / "programs"
    programs.mkdir()
    (programs / "kubectl").symlink_to(cluster_tools.kubectl())
    (programs / "helm").symlink_to(cluster_tools.find("helm"))
    homes = {
        f"HELM_{kind}_HOME": str(plane.folder / f"helm-{kind}")
        for kind in ("CACHE", "CONFIG", "DATA")
    }
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return {**plane.environment(), **homes, "PATH": path}


def run(commands: str, given: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=ROOT,
        env=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout}{done.stderr}"
    return done.stdout


def cells(text: str) -> list[list[str]]:
    """The words of a table without the last column, which is the age, else whole lines."""
    rows = [re.split(r" {2,}", line.strip()) for line in text.splitlines() if line.strip()]
    return [row[:-1] if len(row) > 2 else row for row in rows]


def test_the_tutorial_does_what_it_says(own_plane: ControlPlane) -> None:
    """The chart's own pod is played, so the operator runs beside it with that pod's account."""
    own_plane.create_nodes(
        [cluster_nodes.gpu_server("server"), cluster_nodes.raspberry_pi("pi", address_index=2)]
    )
    given = environment(own_plane)
    (install, _), *others = steps()
    run(install, given)
    operator = OperatorProcess(own_plane)
    operator.start()
    try:
        for commands, printed in others:
            found = run(commands, given)
            if printed:
                assert cells(found)[-len(cells(printed)) :] == cells(printed)
    finally:
        operator.stop()
    assert len(others) == 8
    labels = [
        label
        for each in own_plane.api.items("/api/v1/nodes")
        for label in each["metadata"]["labels"]
    ]
    assert not [
        label for label in labels if label.startswith(("drafter.sled.dev/", "sled.dev/device="))
    ]
