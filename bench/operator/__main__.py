"""How the operator behaves with thousands of nodes: the real operator against a real control plane.

    python bench/operator                         # 5,000 nodes, 20 EdgeDrafters, 5 SLEDServers
    python bench/operator --nodes 500 --idle 60

Nodes and pods are played by kwok, so what is measured is the operator and the API server, never a
container. Writes are counted in the API server's audit log. Prints a table and writes the figures to
bench/results/operator-fleet.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "support")]

from sled_testkit import cluster_nodes  # noqa: E402  (needs the path above)
from sled_testkit.cluster import ControlPlane  # noqa: E402
from sled_testkit.cluster_helm import Helm  # noqa: E402
from sled_testkit.cluster_operator import OperatorProcess  # noqa: E402

HOME = "sled-system"
GROUP = "/apis/sled.dev/v1alpha1"
CLASSES = (
    ("raspberry-pi-5", "arm64", {"cpu": "4", "memory": "8Gi"}),
    ("raspberry-pi-4", "arm64", {"cpu": "4", "memory": "4Gi"}),
    ("mini-pc", "amd64", {"cpu": "8", "memory": "16Gi"}),
)
LEASE = ("leases", "update")


@dataclass(frozen=True, slots=True)
class Size:
    """What is put into the cluster."""

    nodes: int
    drafters: int
    servers: int
    joins: int
    idle_seconds: int


def report(line: str) -> None:
    """Progress for the person who waits."""
    print(f"{datetime.datetime.now():%H:%M:%S} {line}", flush=True)


def node(index: int, size: Size, prefix: str = "node") -> dict[str, Any]:
    """One device of one of the sites; each EdgeDrafter has a site of its own."""
    name, architecture, capacity = CLASSES[index % len(CLASSES)]
    labels = {"sled.dev/device-class": name, "site": f"s{index % size.drafters}"}
    return cluster_nodes.node(
        f"{prefix}-{index}",
        labels=labels,
        capacity=capacity,
        architecture=architecture,
        address_index=index + 1,
    )


def resources(size: Size) -> Iterator[dict[str, Any]]:
    """SLEDServers, and EdgeDrafters that draft for them by prompt lookup."""
    for index in range(size.servers):
        spec: dict[str, Any] = {
            "model": {"name": f"target-{index}", "source": "hf://org/repo/target.gguf@main"},
            "replicas": 2,
        }
        yield _resource("SLEDServer", f"target-{index}", spec)
    drafts = [
        {"name": "lookup", "kind": "NGram"},
        {
            "name": "tiny",
            "source": "hf://org/repo/tiny.gguf@main",
            "profile": {
                "memoryMiB": 400,
                "acceptancePermille": 700,
                "speeds": [{"deviceClass": "default", "tokensPerSecondMilli": 30_000}],
            },
        },
    ]
    for index in range(size.drafters):
        spec = {
            "server": {"name": f"target-{index % size.servers}"},
            "nodeSelector": {"site": f"s{index}"},
            "drafts": drafts,
        }
        yield _resource("EdgeDrafter", f"fleet-{index}", spec)


def _resource(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default"}
    version = {"apiVersion": "sled.dev/v1alpha1", "kind": kind}
    return {**version, "metadata": metadata, "spec": spec}


def measure(plane: ControlPlane, size: Size) -> dict[str, float]:
    """Fill the cluster, run the operator, and return every figure."""
    Helm(plane.folder, plane.kubeconfig).run(
        "install", "sled", str(ROOT / "charts" / "sled"), "-n", HOME, "--create-namespace",
        values={"replicas": 0},
    )  # fmt: skip
    report(f"registering {size.nodes} nodes")
    servers = [cluster_nodes.gpu_server(f"server-{index}") for index in range(size.servers)]
    plane.create_nodes([*servers, *(node(index, size) for index in range(size.nodes))])
    for body in resources(size):
        path = f"{GROUP}/namespaces/default/{body['kind'].lower()}s"
        plane.api.create(path, body)
    operator = OperatorProcess(plane)
    operator.start()
    try:
        figures: dict[str, float] = {}
        for part in (_assigned, _pods_ready, _joins, _idle):
            found = part(plane, operator, size)
            for name, value in found.items():
                report(f"{name}: {value:.2f}")
            figures |= found
        return figures
    finally:
        operator.stop()


def _assigned(plane: ControlPlane, operator: OperatorProcess, size: Size) -> dict[str, float]:
    report("assigning")
    began = time.monotonic()

    def all_assigned(found: dict[str, Any]) -> bool:
        return _nodes(found, "assigned") == size.nodes

    path = f"{GROUP}/namespaces/default/edgedrafters"
    plane.api.wait_all(path, all_assigned, timeout_seconds=600)
    marks = _log_times(operator.log)
    index_seconds = marks["working"] - marks["leading"]
    return {
        "first list and index, s": index_seconds,
        "all assigned, s": time.monotonic() - began + index_seconds,
        "operator's processor time by then, s": operator.cpu_seconds(),
        "memory after assignment, MB": operator.memory_bytes() / 1e6,
    }


def _nodes(drafters: dict[str, Any], state: str) -> int:
    counts = [each.get("status", {}).get("nodes", {}) for each in drafters.values()]
    return sum(int(each.get(state, 0)) for each in counts)


def _log_times(log: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for line in log.read_text().splitlines():
        if line.startswith("{"):
            entry = json.loads(line)
            moment = datetime.datetime.fromisoformat(entry["time"]).timestamp()
            found.setdefault(entry["message"], moment)
    return found


def _pods_ready(plane: ControlPlane, _: OperatorProcess, size: Size) -> dict[str, float]:
    report("waiting for the drafter pods (Kubernetes' own controllers place them)")
    began = time.monotonic()

    def all_ready(found: dict[str, Any]) -> bool:
        return _nodes(found, "ready") == size.nodes

    path = f"{GROUP}/namespaces/default/edgedrafters"
    plane.api.wait_all(path, all_ready, timeout_seconds=1800)
    return {"then all pods ready, s": time.monotonic() - began}


def _joins(plane: ControlPlane, _: OperatorProcess, size: Size) -> dict[str, float]:
    report(f"{size.joins} nodes join, one after the other")
    waits = []
    pods = "/api/v1/namespaces/default/pods"
    for index in range(size.joins):
        body = node(index, size, prefix="late")
        name = body["metadata"]["name"]
        began = time.monotonic()
        plane.api.create("/api/v1/nodes", body)
        plane.api.wait_all(pods, bool, fieldSelector=f"spec.nodeName={name}", timeout_seconds=60)
        waits.append(time.monotonic() - began)
    waits.sort()
    return {
        "joining node has its pod, p50, s": waits[len(waits) // 2],
        "joining node has its pod, p99, s": waits[min(len(waits) - 1, len(waits) * 99 // 100)],
    }


def _idle(plane: ControlPlane, operator: OperatorProcess, size: Size) -> dict[str, float]:
    report("waiting until nothing changes any more")
    _settle(plane, operator)
    report(f"idle for {size.idle_seconds} s")
    mark, cpu, began = plane.audit.mark(), operator.cpu_seconds(), time.monotonic()
    time.sleep(size.idle_seconds)  # the measurement itself: nothing happens for this long
    seconds = time.monotonic() - began
    writes = Counter((e.resource, e.verb) for e in plane.audit.writes(operator.user, mark))
    other = sum(count for what, count in writes.items() if what != LEASE)
    return {
        "memory at the end, MB": operator.memory_bytes() / 1e6,
        "idle, share of a core, %": 100 * (operator.cpu_seconds() - cpu) / seconds,
        "idle writes besides the lease": other,
        "idle lease renewals": writes[LEASE],
        "refused calls, all in all": len(plane.audit.forbidden(operator.user)),
    }


def _settle(plane: ControlPlane, operator: OperatorProcess) -> None:
    for _ in range(60):
        mark = plane.audit.mark()
        time.sleep(20)
        writes = plane.audit.writes(operator.user, mark)
        if all((each.resource, each.verb) == LEASE for each in writes):
            return
    raise TimeoutError("the operator keeps writing")


def main() -> int:
    """Run once and write the figures."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--drafters", type=int, default=20)
    parser.add_argument("--servers", type=int, default=5)
    parser.add_argument("--joins", type=int, default=100)
    parser.add_argument("--idle", type=int, default=300, help="seconds")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "bench" / "results" / "operator-fleet.json"
    )
    chosen = parser.parse_args()
    size = Size(chosen.nodes, chosen.drafters, chosen.servers, chosen.joins, chosen.idle)
    with ControlPlane(report) as plane:
        plane.start_workloads()
        figures = measure(plane, size)
    for name, value in figures.items():
        print(f"{name:40} {value:10.2f}")
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(_record(size, figures), indent=2) + "\n")
    return 0


def _record(size: Size, figures: dict[str, float]) -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "command": " ".join(["python", "bench/operator", *sys.argv[1:]]),
        "commit": commit.stdout.strip(),
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}",
        "nodes and pods": "simulated by kwok; control plane real",
        "nodes": size.nodes,
        "edgedrafters": size.drafters,
        "sledservers": size.servers,
        "figures": {name: round(value, 3) for name, value in figures.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
