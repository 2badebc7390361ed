"""A real Kubernetes control plane on this machine, for tests: started, restarted, ended.

Why: RBAC, admission, CEL rules, server-side apply, garbage collection and watches behave like
Kubernetes only in Kubernetes. etcd and the API server start first (seconds); the
controller-manager, the scheduler and kwok join with `start_workloads`. Everything listens on
127.0.0.1 and lives in one temporary folder. Must not be used for anything but tests: etcd does
not sync to disk.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import yaml

from sled_testkit import cluster_nodes, cluster_tools
from sled_testkit.cluster_api import Api, Object
from sled_testkit.cluster_audit import AuditLog
from sled_testkit.cluster_certificates import write_kubeconfig
from sled_testkit.cluster_commands import LOOPBACK, Layout
from sled_testkit.cluster_process import Child, ProcessFailed, new_folder, reap_abandoned
from sled_testkit.cluster_supervisor import Supervisor

READY_TIMEOUT_SECONDS = 240.0


class KubectlFailed(RuntimeError):
    """kubectl ended with an error; `stderr` is what it said."""

    def __init__(self, arguments: Iterable[str], stderr: str) -> None:
        super().__init__(f"kubectl {' '.join(arguments)}: {stderr.strip()}")
        self.stderr = stderr


class Cluster:
    """Access to a cluster, whoever runs it: kubectl and a JSON client with one kubeconfig."""

    def __init__(self, kubeconfig: Path, scratch: Path) -> None:
        self.kubeconfig = kubeconfig
        self.folder = scratch
        self._api: Api | None = None

    @property
    def api(self) -> Api:
        """The JSON client with this kubeconfig's rights."""
        if self._api is None:
            self._api = Api(self.kubeconfig)
        return self._api

    def kubectl(
        self, *arguments: str, stdin: str | None = None, kubeconfig: Path | None = None
    ) -> str:
        """Run kubectl and return what it printed; KubectlFailed when it refuses."""
        done = subprocess.run(
            [str(cluster_tools.kubectl()), "--cache-dir", str(self.folder / "kubectl"), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env=self.environment(kubeconfig),
        )
        if done.returncode != 0:
            raise KubectlFailed(arguments, done.stderr or done.stdout)
        return done.stdout

    def environment(self, kubeconfig: Path | None = None) -> dict[str, str]:
        """This process's environment with KUBECONFIG set to this cluster."""
        return {**os.environ, "KUBECONFIG": str(kubeconfig or self.kubeconfig)}

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig with a fresh token of a service account: exactly that account's rights."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
        answer = self.api.create(path, {**request, "spec": {"expirationSeconds": 86_400}})
        admin = yaml.safe_load(self.kubeconfig.read_text())["clusters"][0]["cluster"]
        return write_kubeconfig(
            self.folder / f"{namespace}-{name}.kubeconfig",
            admin["server"],
            Path(admin["certificate-authority"]),
            {"token": answer["status"]["token"]},
        )

    def close(self) -> None:
        """Give the connections back; the cluster itself goes on."""
        if self._api is not None:
            self._api.close()
            self._api = None


class ControlPlane(Cluster):
    """A control plane of our own, as a context manager."""

    def __init__(
        self,
        progress: cluster_tools.Progress = cluster_tools.silent,
        *,
        address: str = LOOPBACK,
    ) -> None:
        reap_abandoned()
        folder = new_folder()
        super().__init__(folder / "admin.kubeconfig", folder)
        self._progress = progress
        etcd, peer, api = _free_ports(3)
        self.layout = Layout.create(folder, etcd, peer, api, address)
        self.server = self.layout.server
        self.audit = AuditLog(self.layout.audit_log)
        self._etcd = self._child("etcd", self.layout.etcd())
        self._apiserver = self._child("kube-apiserver", self.layout.apiserver())
        self._workloads: list[Child] = []
        self._supervisor: Supervisor | None = None

    def __enter__(self) -> ControlPlane:
        try:
            self._etcd.start()
            self.start_apiserver()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        self._look_no_more()
        children = (*reversed(self._workloads), self._apiserver, self._etcd)
        for child in children:
            child.signal_kill()
        for child in children:
            child.kill()
        if os.environ.get("SLED_TEST_KEEP") != "1":
            shutil.rmtree(self.folder, ignore_errors=True)

    def start_apiserver(self) -> None:
        """Start the API server and wait until it answers `/readyz` with ok."""
        self._apiserver.start()
        deadline = time.monotonic() + READY_TIMEOUT_SECONDS
        while not self.api.ready():
            for child in (self._etcd, self._apiserver):
                child.check()
            if time.monotonic() > deadline:
                raise ProcessFailed(f"kube-apiserver is not ready:\n{self._apiserver.log_tail()}")
            time.sleep(0.05)

    def stop_apiserver(self) -> None:
        """End the API server; clients see refused connections until it starts again."""
        self._apiserver.kill()

    def start_workloads(self, requests_per_second: int = 400) -> None:
        """Add the controller-manager, the scheduler and, where no node is real, kwok; quiet when
        they run already.

        `requests_per_second` is what the first two may each ask of the API server; 0 leaves them
        Kubernetes' own defaults (20 and 50), with which tests would wait for pods.
        """
        if self._workloads:
            return
        programs = [
            ("kube-controller-manager", self.layout.controller_manager(requests_per_second)),
            ("kube-scheduler", self.layout.scheduler(requests_per_second)),
        ]
        if self.layout.address == LOOPBACK:
            programs.append(("kwok", self.layout.kwok()))
        for name, arguments in programs:
            child = self._child(name, arguments)
            child.start()
            self._workloads.append(child)
        self._supervisor = Supervisor(self._workloads)
        self._supervisor.start()
        self.api.wait("/api/v1/namespaces/default/serviceaccounts", "default", bool)

    def stop_workloads(self) -> None:
        """End them, to be started with other limits."""
        self._look_no_more()
        for child in self._workloads:
            child.stop()
        self._workloads.clear()

    def _look_no_more(self) -> None:
        if self._supervisor is not None:
            self._supervisor.stop()
            self._supervisor = None

    def revived(self) -> dict[str, int]:
        """How often each program that is looked after had ended and was started again."""
        return dict(self._supervisor.revived) if self._supervisor else {}

    def check(self) -> None:
        """Raise ProcessFailed when a part of the control plane has ended by itself."""
        for child in (self._etcd, self._apiserver, *self._workloads):
            child.check()

    def cpu_seconds(self) -> dict[str, float]:
        """Processor time of each of its programs so far."""
        children = (self._etcd, self._apiserver, *self._workloads)
        return {child.name: child.cpu_seconds() for child in children}

    def create_nodes(self, nodes: Iterable[Object]) -> None:
        """Register fake nodes (see `cluster_nodes`)."""
        self.api.create_all("/api/v1/nodes", nodes)

    def take_offline(self, name: str) -> None:
        """Lose a node as a cut cable would: kwok stops playing it and it turns Unknown."""
        labels = {"metadata": {"labels": {cluster_nodes.STATE: cluster_nodes.OFFLINE}}}
        self.api.patch(f"/api/v1/nodes/{name}", labels)
        self.api.patch(f"/api/v1/nodes/{name}/status", cluster_nodes.offline_status())

    def bring_online(self, name: str) -> None:
        """Undo `take_offline`; kwok makes the node Ready."""
        labels = {"metadata": {"labels": {cluster_nodes.STATE: cluster_nodes.ONLINE}}}
        self.api.patch(f"/api/v1/nodes/{name}", labels)

    def _child(self, name: str, arguments: list[str]) -> Child:
        program = cluster_tools.find(name, self._progress)
        # a small heap is collected over and over, which a control plane on two cores cannot afford
        environment = {"GOGC": "400", **os.environ}
        return Child(name, [str(program), *arguments], self.folder, environment)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def main() -> int:
    """Run a control plane until interrupted, for work by hand; prints its kubeconfig."""

    def report(line: str) -> None:
        print(line, flush=True)

    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with ControlPlane(report) as plane:
        plane.start_workloads()
        report(f"export KUBECONFIG={plane.kubeconfig}")
        report("ready; end it with Ctrl-C")
        while not ended.wait(1.0):
            plane.check()
    return 0


if __name__ == "__main__":
    sys.exit(main())
