"""What GitOps tools make of objects: the kstatus library that Flux decides health with, as a program.

Why: only that library's own verdict says whether Flux takes a resource for healthy. Must not judge by itself.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from sled_testkit import cluster_tools
from sled_testkit.cluster_api import Object

CURRENT, IN_PROGRESS, FAILED = "Current", "InProgress", "Failed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One object's status, and the message that a user of the tool sees."""

    kind: str
    name: str
    status: str
    message: str


def judge(objects: Iterable[Object]) -> list[Verdict]:
    """The verdicts in the order of the objects."""
    done = subprocess.run(
        [str(cluster_tools.find("kstatus"))],
        input="\n".join(json.dumps(each) for each in objects),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return [Verdict(**json.loads(line)) for line in done.stdout.splitlines()]
