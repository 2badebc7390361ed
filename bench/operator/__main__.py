"""How the operator behaves with thousands of nodes: the real operator against a real control plane.

    python bench/operator                         # 5,000 nodes, 20 EdgeDrafters, 5 SLEDServers
    python bench/operator --nodes 500 --idle 60

Nodes and pods are played by kwok, so what is measured is the operator and the control plane beside
it on the same machine, never a container. The nodes have been there for a while when the operator
starts; controllers and scheduler then run with Kubernetes' own request limits. Writes are counted
in the API server's audit log. Prints every figure and writes them to bench/results/operator.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(Path(__file__).parent)]

import measuring  # noqa: E402  (needs the path above)
from fleet import Size, node, resources  # noqa: E402

from sled_cli.demo.record import commit, machine  # noqa: E402
from sled_testkit import cluster_nodes  # noqa: E402
from sled_testkit.cluster import ControlPlane  # noqa: E402
from sled_testkit.cluster_helm import Helm  # noqa: E402
from sled_testkit.cluster_operator import OperatorProcess  # noqa: E402

HOME = "sled-system"
DEFAULT_LIMITS = 0


def report(line: str) -> None:
    """Progress for the person who waits."""
    print(f"{datetime.datetime.now():%H:%M:%S} {line}", flush=True)


def measure(plane: ControlPlane, size: Size) -> measuring.Figures:
    """Fill the cluster, run the operator, and return every figure."""
    fill(plane, size)
    operator = OperatorProcess(plane)
    operator.start()
    found: measuring.Figures = {}

    def note(figures: measuring.Figures) -> None:
        for name, value in figures.items():
            report(f"  {name}: {value:.2f}")
        found.update(figures)

    try:
        report("assigning")
        note(measuring.assignment(plane, operator, size))
        report("waiting for the drafter pods (Kubernetes' own controllers place them)")
        note(measuring.pods_ready(plane, size))
        measuring.settle(plane, operator)
        report(f"{size.joins} nodes join, one after the other")
        note(measuring.joins(plane, size))
        report("waiting until nothing changes any more")
        measuring.settle(plane, operator)
        report(f"idle for {size.idle_seconds} s")
        note(measuring.idle(plane, operator, size))
    finally:
        operator.stop()
    return found


def fill(plane: ControlPlane, size: Size) -> None:
    """The chart, nodes that have settled, and the resources, before any operator runs."""
    chart = str(ROOT / "charts" / "sled")
    helm = Helm(plane.folder, plane.kubeconfig)
    helm.run("install", "sled", chart, "-n", HOME, "--create-namespace", values={"replicas": 0})
    report(f"registering {size.nodes} nodes")
    servers = [cluster_nodes.gpu_server(f"server-{index}") for index in range(size.servers)]
    plane.create_nodes([*servers, *(node(index, size) for index in range(size.nodes))])
    report("waiting until Kubernetes has settled them (taints, time to live)")
    measuring.settle_nodes(plane)
    plane.stop_workloads()
    plane.start_workloads(DEFAULT_LIMITS)
    for body in resources(size):
        path = f"{measuring.GROUP}/namespaces/default/{body['kind'].lower()}s"
        plane.api.create(path, body)


def record(size: Size, figures: measuring.Figures) -> dict[str, Any]:
    """The flat object that is written."""
    return {
        "nodes": size.nodes,
        "edgedrafters": size.drafters,
        "sledservers": size.servers,
        "joins": size.joins,
        "idle_seconds": size.idle_seconds,
        **{name: round(value, 3) for name, value in figures.items()},
        "kind": "measured",
        "machine": machine(),
        "commit": commit(),
        "command": shlex.join(["python", "bench/operator", *sys.argv[1:]]),
    }


def main() -> int:
    """Run once and write the figures."""
    parser = argparse.ArgumentParser(prog="bench/operator", description=str(__doc__).split("\n")[0])
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--drafters", type=int, default=20)
    parser.add_argument("--servers", type=int, default=5)
    parser.add_argument("--joins", type=int, default=100)
    parser.add_argument("--idle", type=int, default=300, help="seconds")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "operator.json")
    chosen = parser.parse_args()
    size = Size(chosen.nodes, chosen.drafters, chosen.servers, chosen.joins, chosen.idle)
    with ControlPlane(report) as plane:
        plane.start_workloads()
        figures = measure(plane, size)
    for name, value in figures.items():
        print(f"{name:45} {value:10.2f}")
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(record(size, figures), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
