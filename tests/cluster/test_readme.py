"""The table in the README is what kubectl prints for a fleet of simulated nodes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sled_testkit import cluster_nodes
from sled_testkit.cluster import ControlPlane
from sled_testkit.cluster_api import Object
from sled_testkit.cluster_operator import OperatorProcess
from sled_testkit.sled_resources import SLED, install, ready, wait

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "$ kubectl get sled,drafter -o wide\n"


@pytest.fixture(scope="module")
def plane(own_plane: ControlPlane) -> Iterator[ControlPlane]:
    """24 devices, one of them far too small."""
    install(own_plane)
    labels = {"sled.dev/device": "true"}
    small = {"memory": "256Mi"}
    own_plane.create_nodes([cluster_nodes.gpu_server("gpu-1")])
    own_plane.create_nodes(
        [
            *(cluster_nodes.node(f"pi-{n}", labels=labels, address_index=n + 2) for n in range(23)),
            cluster_nodes.node("zero", labels=labels, capacity=small, address_index=90),
        ]
    )
    process = OperatorProcess(own_plane)
    process.start()
    yield own_plane
    process.stop()


def test_the_table_of_the_readme(plane: ControlPlane) -> None:
    plane.kubectl("apply", "-f", str(Path(__file__).parent / "data" / "readme.yaml"))
    wait(plane, f"{SLED}/sledservers", "qwen", ready)

    def all_but_one(found: Object | None) -> bool:
        return bool((found or {}).get("status", {}).get("summary") == "23/24")

    wait(plane, f"{SLED}/edgedrafters", "field", all_but_one)
    printed = plane.kubectl("get", "sled,drafter", "-o", "wide")
    readme = (ROOT / "README.md").read_text()
    shown = readme.split(COMMAND)[1].split("```")[0]
    assert _cells(shown) == _cells(printed)


def _cells(text: str) -> list[list[str]]:
    """The table's cells, without the age."""
    return [re.split(r" {2,}", line.strip())[:-1] for line in text.splitlines() if line.strip()]
