"""Where a test control plane keeps its files, and the arguments of each of its programs.

Why: the flags are the part that changes with Kubernetes versions, so they stand in one place, apart
from starting and stopping. Must not start anything.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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

LOOPBACK = "127.0.0.1"
SERVICES = "10.96.0.0/16"
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
    address: str
    issuer: Authority
    serving: KeyPair
    signing: KeyPair

    @classmethod
    def create(
        cls,
        folder: Path,
        etcd_port: int,
        peer_port: int,
        api_port: int,
        address: str = LOOPBACK,
    ) -> Layout:
        """Write keys, certificates, kubeconfigs and the audit policy into `folder`.

        `address` is where the API server listens: other than loopback when real nodes dial it.
        """
        authority = Authority(folder)
        addresses = sorted({LOOPBACK, address, "10.96.0.1"})
        hosts = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        layout = cls(
            folder=folder,
            etcd_port=etcd_port,
            peer_port=peer_port,
            api_port=api_port,
            address=address,
            issuer=authority,
            serving=authority.server("kube-apiserver", hosts, addresses),
            signing=write_signing_keys(folder),
        )
        for file, user, groups in _IDENTITIES:
            layout.admit(file, user, groups)
        layout._audit_policy.write_text(json.dumps(POLICY))
        return layout

    @property
    def server(self) -> str:
        """The API server's address."""
        return f"https://{self.address}:{self.api_port}"

    @property
    def authority(self) -> Path:
        """The certificate that signs all others."""
        return self.issuer.certificate

    def admit(self, file: str, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig with a fresh client certificate."""
        pair = self.issuer.client(user, groups)
        return write_kubeconfig(self.kubeconfig(file), self.server, self.authority, client_of(pair))

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
            f"--bind-address={self.address}",
            f"--advertise-address={self.address}",
            f"--secure-port={self.api_port}",
            *self._real_nodes(),
            f"--tls-cert-file={self.serving.certificate}",
            f"--tls-private-key-file={self.serving.key}",
            f"--client-ca-file={self.authority}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={self.signing.certificate}",
            f"--service-account-signing-key-file={self.signing.key}",
            f"--service-cluster-ip-range={SERVICES}",
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

    def _real_nodes(self) -> list[str]:
        """How pods find the API server, and the API server the kubelets."""
        if self.address == LOOPBACK:
            return ["--endpoint-reconciler-type=none"]
        pair = self.issuer.client("kube-apiserver-kubelet-client", _MASTERS)
        return [
            f"--kubelet-client-certificate={pair.certificate}",
            f"--kubelet-client-key={pair.key}",
        ]

    def controller_manager(self, requests_per_second: int) -> list[str]:
        """Every default controller, each with its own service account and that many requests; 0
        leaves Kubernetes' own default (20).
        """
        rate = requests_per_second
        # fake nodes send no heartbeats; a test takes them offline by name
        played = self.address == LOOPBACK
        patience = "24h" if played else "20s"
        return [
            f"--kubeconfig={self.kubeconfig('controller-manager')}",
            "--use-service-account-credentials",
            # as in production it ends when it cannot renew; see cluster_supervisor
            f"--leader-elect={'false' if played else 'true'}",
            f"--service-account-private-key-file={self.signing.key}",
            f"--root-ca-file={self.authority}",
            "--secure-port=0",
            f"--node-monitor-grace-period={patience}",
            *([f"--kube-api-qps={rate}", f"--kube-api-burst={2 * rate}"] if rate else []),
        ]

    def scheduler(self, requests_per_second: int) -> list[str]:
        """The default profile, without leader election; 0 requests leave the default (50)."""
        client: dict[str, str | int] = {"kubeconfig": str(self.kubeconfig("scheduler"))}
        if requests_per_second:
            client |= {"qps": requests_per_second, "burst": 2 * requests_per_second}
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
