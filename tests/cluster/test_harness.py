"""The harness itself: exact rights, counted writes, restarts, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from sled_testkit import cluster_existing, cluster_nodes, cluster_process, cluster_tools
from sled_testkit.cluster import ControlPlane, KubectlFailed
from sled_testkit.cluster_api import Api, ApiError, Object
from sled_testkit.cluster_audit import service_account

SUPPORT = Path(cluster_process.__file__).parents[1]


def test_versions_are_the_pinned_ones(control_plane: ControlPlane) -> None:
    version = json.loads(control_plane.kubectl("version", "-o", "json"))
    assert version["serverVersion"]["gitVersion"] == f"v{cluster_tools.KUBERNETES}"


def test_a_service_account_has_its_own_rights_and_no_more(
    control_plane: ControlPlane, namespace: str
) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader"}}
    control_plane.api.create(f"/api/v1/namespaces/{namespace}/serviceaccounts", account)
    kubeconfig = control_plane.service_account_kubeconfig(namespace, "reader")
    mark = control_plane.audit.mark()
    with pytest.raises(KubectlFailed, match="forbidden"):
        control_plane.kubectl("create", "ns", f"{namespace}-x", kubeconfig=kubeconfig)
    user = service_account(namespace, "reader")
    refused = control_plane.audit.forbidden(user, since=mark)
    assert [(each.verb, each.resource, each.code) for each in refused] == [
        ("create", "namespaces", 403)
    ]
    assert control_plane.audit.writes(user, since=mark) == refused
    assert control_plane.audit.writes(service_account(namespace, "other")) == []


def test_pods_run_on_fake_nodes_and_a_lost_node_comes_back(
    workloads: ControlPlane, namespace: str
) -> None:
    node = f"pi-{namespace}"
    workloads.create_nodes([cluster_nodes.raspberry_pi(node)])
    pods = f"/api/v1/namespaces/{namespace}/pods"
    for name, image in (("good", "sled:1"), ("bad", "sled:broken")):
        container = {"name": "main", "image": image}
        spec: Object = {"containers": [container], "nodeName": node}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        workloads.api.create(pods, body)
    workloads.api.wait(pods, "good", lambda pod: _condition(pod, "Ready") == "True")
    workloads.api.wait(pods, "bad", lambda pod: _condition(pod, "Ready") == "False")
    workloads.take_offline(node)
    assert _condition(workloads.api.get(f"/api/v1/nodes/{node}"), "Ready") == "Unknown"
    workloads.bring_online(node)
    workloads.api.wait("/api/v1/nodes", node, lambda found: _condition(found, "Ready") == "True")
    workloads.api.delete(f"/api/v1/nodes/{node}")


def test_the_api_server_restarts_with_everything_it_knew(
    control_plane: ControlPlane, namespace: str
) -> None:
    control_plane.stop_apiserver()
    assert not control_plane.api.ready()
    control_plane.start_apiserver()
    assert control_plane.api.get(f"/api/v1/namespaces/{namespace}")["metadata"]["name"] == namespace


def test_a_killed_run_leaves_no_process(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from sled_testkit.cluster_process import Child\n"
        f"child = Child('sleeper', ['/bin/sleep', '600'], Path({str(tmp_path)!r}))\n"
        "child.start()\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SUPPORT)},
    )
    with owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert cluster_process.start_time(pid) is not None
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    assert cluster_process.wait_until_gone(pid, 10)


def test_abandoned_processes_are_reaped_by_their_record_only(tmp_path: Path) -> None:
    folder = tmp_path / f"{cluster_process.FOLDER_PREFIX}old"
    folder.mkdir()
    left_over = subprocess.Popen(["/bin/sleep", "600"])
    unrelated = subprocess.Popen(["/bin/sleep", "600"])
    try:
        record = {
            "owner": (4_000_000, "long gone"),
            "etcd": (left_over.pid, cluster_process.start_time(left_over.pid)),
            "kwok": (unrelated.pid, "another incarnation"),
        }
        (folder / "processes.json").write_text(json.dumps(record))
        assert cluster_process.reap_abandoned(tmp_path) == [left_over.pid]
        assert left_over.wait(10) == -signal.SIGKILL
        assert unrelated.poll() is None
        assert not folder.exists()
    finally:
        for each in (left_over, unrelated):
            each.kill()
            each.wait()


def test_given_programs_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLED_CACHE", str(tmp_path / "cache"))
    inside = tmp_path / "etcd"
    inside.write_text("#!/bin/sh\n")
    archive = tmp_path / "envtest.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(inside, "controller-tools/envtest/etcd")
    monkeypatch.setenv(cluster_tools.ARCHIVE, archive.as_uri())  # an address is fetched
    unpacked = cluster_tools.find("etcd")
    assert unpacked.is_relative_to(tmp_path / "cache")
    assert os.access(unpacked, os.X_OK)
    assets = tmp_path / "assets"
    assets.mkdir()
    (assets / "etcd").write_text("#!/bin/sh\n")
    monkeypatch.setenv(cluster_tools.ASSETS, str(assets))
    assert cluster_tools.find("etcd") == assets / "etcd"
    assert "etcd" not in cluster_tools.missing()
    assert "kwok" in cluster_tools.missing()


def test_a_remote_cluster_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubeconfig = tmp_path / "config"
    user = {"token": "x"}
    cluster_process_ca = tmp_path / "ca.pem"
    cluster_process_ca.write_text("a certificate")
    from sled_testkit.cluster_certificates import write_kubeconfig

    write_kubeconfig(kubeconfig, "https://prod.example.com:6443", cluster_process_ca, user)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    given = cluster_existing.given()
    assert given.kubeconfig is None
    assert "prod.example.com" in (given.left_alone or "")
    monkeypatch.setenv(cluster_existing.ALLOW, "1")
    assert cluster_existing.given().kubeconfig is not None


def test_an_existing_cluster_works_through_its_flattened_kubeconfig(
    control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
    given = cluster_existing.given()
    assert given.kubeconfig is not None
    api = Api(cluster_existing.write(given.kubeconfig, tmp_path))
    assert api.get("/api/v1/namespaces/default")["metadata"]["name"] == "default"
    with pytest.raises(ApiError, match="404"):
        api.get("/api/v1/namespaces/nothing-here")
    api.close()


def _condition(found: Object | None, kind: str) -> str | None:
    conditions = (found or {}).get("status", {}).get("conditions", [])
    return next((each["status"] for each in conditions if each["type"] == kind), None)
