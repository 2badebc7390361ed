"""The first install as a person types it, recorded: Helm, two resources, a look, text on a device.

Why: what the documentation shows is what the suite has done. Must not do anything that the guide
does not tell a user to do, but for `on NODE COMMAND`, which stands for a login on a node.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sled_testkit import cluster_tools
from sled_testkit.cluster_api import Object
from sled_testkit.e2e_specs import DRAFTER, FLEET, PROMPT, SERVER, SYSTEM
from sled_testkit.node_cluster import NodeCluster
from sled_testkit.terminal_session import COLUMNS, TerminalSession

ROOT = Path(__file__).resolve().parents[3]
TITLE = "SLED: from helm install to text on a device"


class FirstInstall:
    """A folder with the files that the commands name, and a shell in it."""

    def __init__(
        self,
        cluster: NodeCluster,
        environment: Mapping[str, str],
        values: Mapping[str, Any],
        server: Object,
        drafter: Object,
    ) -> None:
        self._folder = cluster.plane.folder / "session"
        programs = self._folder / ".bin"
        programs.mkdir(parents=True, exist_ok=True)
        self._provide(programs, cluster)
        charts = self._folder / "charts"
        charts.unlink(missing_ok=True)
        charts.symlink_to(ROOT / "charts")
        shutil.copy(Path(__file__).with_name("e2e_ask.py"), self._folder / "ask.py")
        (self._folder / "values.yaml").write_text(yaml.safe_dump(dict(values)))
        documents = [
            _resource("SLEDServer", SERVER, server),
            _resource("EdgeDrafter", DRAFTER, drafter),
        ]
        (self._folder / "fleet.yaml").write_text(_compact(documents))
        path = f"{programs}:{os.environ['PATH']}"
        own = {"PATH": path, "NO_PROXY": "*", "PYTHONPATH": os.pathsep.join(sys.path)}
        self._shell = TerminalSession(TITLE, self._folder, {**environment, **own})

    def install(self) -> None:
        """From `helm install` until both resources are Ready."""
        namespace = f"-n {FLEET}"
        self._shell.run("kubectl get nodes -L nvidia.com/gpu.present,sled.dev/device-class")
        self._shell.run(
            f"helm install sled charts/sled -n {SYSTEM} -f values.yaml --wait --timeout 170s --hide-notes"
        )
        self._shell.run("cat fleet.yaml")
        self._shell.run(f"kubectl apply {namespace} -f fleet.yaml")
        self._shell.run(
            f"kubectl wait {namespace} --for=condition=Ready sled/{SERVER} drafter/{DRAFTER} "
            "--timeout=180s"
        )

    def look(self, url: str) -> None:
        """What there is now, and a text from the device `pi4`."""
        namespace = f"-n {FLEET}"
        self._shell.run(f"kubectl get {namespace} sled,drafter -o wide")
        self._shell.run(f"kubectl get {namespace} pods -o wide -L sled.dev/draft")
        self._shell.run("cat ask.py")
        self._shell.run(f"on pi4 python ask.py {url} {shlex.quote(PROMPT)}")

    def write(self, path: Path) -> None:
        """The recording."""
        self._shell.write(path)

    def _provide(self, programs: Path, cluster: NodeCluster) -> None:
        for name, program in (
            ("helm", cluster_tools.find("helm")),
            ("kubectl", cluster_tools.kubectl()),
            ("python", Path(sys.executable)),
        ):
            link = programs / name
            link.write_text(f'#!/bin/sh\nexec {shlex.quote(str(program))} "$@"\n')
            link.chmod(0o755)
        cases = "".join(
            f'{name}) exec {shlex.join(machine.beside())} "$@" ;;\n'
            for name, machine in cluster.machines.items()
        )
        on = programs / "on"
        on.write_text(f'#!/bin/sh\nnode=$1; shift\ncase "$node" in\n{cases}esac\nexit 1\n')
        on.chmod(0o755)


def _resource(kind: str, name: str, spec: Object) -> Object:
    return {
        "apiVersion": "sled.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }


def _compact(documents: list[Object]) -> str:
    """Innermost mappings on one line each, as a person writes them."""
    return yaml.safe_dump_all(documents, sort_keys=False, default_flow_style=None, width=COLUMNS)
