"""Where a test control plane keeps its files, and the arguments of each of its programs.

Why: the flags are the part that changes with Kubernetes versions, so they stand in one place, apart
from starting and stopping. Must not start anything.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from sled_testkit import cluster_nodes
from sled_testkit.cluster_audit import POLICY
from sled_testkit.cluster_certificates import (
    Authority,
    KeyPair,
    client_of,
    write_kubeconfig,
    write_signing_keys,
)

_STAGES = Path(__file__).with_name("cluster_stages.yaml")
_MASTERS = ("system:masters",)
_IDENTITIES = (
    ("admin", "sled-test-admin", _MASTERS),
    ("kwok", "sled-test-kwok", _MASTERS),
    ("controller-manager", "system:kube-controller-manager", ()),
    ("scheduler", "system:kube-scheduler", ()),
)


@dataclass(frozen=True, slots=True)
class Layout:
    """Files, ports and keys of one control plane."""

    folder: Path
    etcd_port: int
    peer_port: int
    api_port: int
    authority: Path
    serving: KeyPair
    signing: KeyPair
    requests_per_second: int
    """What the controller-manager and the scheduler may each ask of the API server; 0 leaves them
    at Kubernetes' own defaults (20 and 50).
    """

    @classmethod
    def create(
        cls, folder: Path, etcd_port: int, peer_port: int, api_port: int, requests_per_second: int
    ) -> Layout:
        """Write keys, certificates, kubeconfigs and the audit policy into `folder`."""
        authority = Authority(folder)
        hosts = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        layout = cls(
            folder=folder,
            etcd_port=etcd_port,
            peer_port=peer_port,
            api_port=api_port,
            authority=authority.certificate,
            serving=authority.server("kube-apiserver", hosts, ["127.0.0.1", "10.96.0.1"]),
            signing=write_signing_keys(folder),
            requests_per_second=requests_per_second,
        )
        for file, user, groups in _IDENTITIES:
            client = client_of(authority.client(user, groups))
            write_kubeconfig(layout.kubeconfig(file), layout.server, layout.authority, client)
        layout._audit_policy.write_text(json.dumps(POLICY))
        return layout

    @property
    def server(self) -> str:
        """The API server's address."""
        return f"https://127.0.0.1:{self.api_port}"

    @property
    def audit_log(self) -> Path:
        """Where the API server appends its audit log."""
        return self.folder / "audit.log"

    @property
    def _audit_policy(self) -> Path:
        return self.folder / "audit-policy.yaml"

    def kubeconfig(self, identity: str) -> Path:
        """The kubeconfig of admin, kwok, controller-manager or scheduler."""
        return self.folder / f"{identity}.kubeconfig"

    def etcd(self) -> list[str]:
        """One member, in memory as far as durability goes."""
        client, peer = (f"http://127.0.0.1:{port}" for port in (self.etcd_port, self.peer_port))
        return [
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def apiserver(self) -> list[str]:
        """Node and RBAC authorisation, real certificates, audit log, OpenShift's owner check."""
        return [
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self.api_port}",
            "--endpoint-reconciler-type=none",
            f"--tls-cert-file={self.serving.certificate}",
            f"--tls-private-key-file={self.serving.key}",
            f"--client-ca-file={self.authority}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={self.signing.certificate}",
            f"--service-account-signing-key-file={self.signing.key}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=Node,RBAC",
            "--enable-aggregator-routing=true",  # no kube-proxy makes a Service's address work
            # the second one is what OpenShift adds: a chart's RBAC must cope with it
            "--enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement",
            "--kubelet-preferred-address-types=InternalIP",
            "--allow-privileged=true",
            f"--audit-policy-file={self._audit_policy}",
            f"--audit-log-path={self.audit_log}",
            "--audit-log-mode=blocking",
            "--profiling=false",
        ]

    def controller_manager(self) -> list[str]:
        """Every default controller, each with its own service account."""
        return [
            f"--kubeconfig={self.kubeconfig('controller-manager')}",
            "--use-service-account-credentials",
            f"--service-account-private-key-file={self.signing.key}",
            f"--root-ca-file={self.authority}",
            "--leader-elect=false",
            "--secure-port=0",
            # fake nodes send no heartbeats; a test takes a node offline by name
            "--node-monitor-grace-period=24h",
            *self._controller_limits(),
        ]

    def _controller_limits(self) -> list[str]:
        rate = self.requests_per_second
        return [f"--kube-api-qps={rate}", f"--kube-api-burst={2 * rate}"] if rate else []

    def scheduler(self) -> list[str]:
        """The default profile, without leader election."""
        client: dict[str, str | int] = {"kubeconfig": str(self.kubeconfig("scheduler"))}
        if self.requests_per_second:
            client |= {"qps": self.requests_per_second, "burst": 2 * self.requests_per_second}
        configuration = {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "clientConnection": client,
            "leaderElection": {"leaderElect": False},
        }
        path = self.folder / "scheduler.yaml"
        path.write_text(json.dumps(configuration))
        return [f"--config={path}", "--secure-port=0"]

    def kwok(self) -> list[str]:
        """Plays the nodes that are labelled online, with our own stages."""
        return [
            f"--kubeconfig={self.kubeconfig('kwok')}",
            f"--config={_STAGES}",
            f"--manage-nodes-with-label-selector={cluster_nodes.STATE}={cluster_nodes.ONLINE}",
            "--node-lease-duration-seconds=0",
            # addresses set aside for benchmarks (RFC 2544): nobody's network is called by accident
            "--cidr=198.18.0.1/16",
        ]
