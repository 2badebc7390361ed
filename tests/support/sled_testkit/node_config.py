"""Configuration of a node's containerd, kubelet, kube-proxy and pod network. Pure: returns text and arguments.

Why: the settings that differ between a server and a node on a developer's machine stand in one place, each with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
CNI_PROGRAMS = "/usr/lib/cni"
CLUSTER_DNS = "10.96.0.10"
PODS = "10.244.0.0/16"


def containerd(disk: Path, pause: str) -> str:
    """`config.toml`; images lie on the node's disk, sockets in its own /run."""
    return f"""version = 2
root = "{disk}/containerd"
state = "/run/containerd"
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # without this right every pod's sandbox dies at its start
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PROGRAMS}"
    conf_dir = "{disk}/cni"
"""


def pod_network(index: int) -> dict[str, Any]:
    """The CNI plugins of node `index`: a bridge with its own range, and host ports."""
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": "/run/cni",
            "ranges": [[{"subnet": pod_range(index)}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge, portmap]}


def pod_range(index: int) -> str:
    """Addresses of the pods of node `index`."""
    return f"10.244.{index}.0/24"


def masquerade(index: int) -> list[str]:
    """The command that gives pods the node's address when they talk to what is outside the cluster."""
    rule = ["--source", pod_range(index), "!", "--destination", PODS, "--jump", "MASQUERADE"]
    return ["iptables", "--wait", "--table", "nat", "--append", "POSTROUTING", *rule]


def kubelet(cgroup: str, authority: Path, disk: Path) -> str:
    """KubeletConfiguration."""
    document = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "x509": {"clientCAFile": str(authority)},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "clusterDNS": [CLUSTER_DNS],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "volumePluginDir": str(disk / "volume-plugins"),
        # the node's own part of the machine's control groups
        "cgroupRoot": cgroup,
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "localStorageCapacityIsolation": False,
        "enforceNodeAllocatable": ["pods"],
        # a full disk of the developer is not the node's
        "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        # a device that comes back is noticed within seconds
        "nodeStatusUpdateFrequency": "4s",
        "nodeLeaseDurationSeconds": 12,
        "syncFrequency": "10s",
        "configMapAndSecretChangeDetectionStrategy": "Watch",
        "protectKernelDefaults": False,
        "serializeImagePulls": False,
    }
    return yaml.safe_dump(document)


def kubelet_command(
    program: Path, name: str, address: str, disk: Path, labels: Mapping[str, str]
) -> list[str]:
    """The kubelet's command line."""
    written = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    return [
        str(program),
        f"--config={disk / 'kubelet.yaml'}",
        f"--kubeconfig={disk / 'kubelet.kubeconfig'}",
        f"--root-dir={disk / 'kubelet'}",
        f"--cert-dir={disk / 'pki'}",
        f"--hostname-override={name}",
        f"--node-ip={address}",
        *([f"--node-labels={written}"] if written else []),
        "--v=1",
    ]


def kube_proxy_command(program: Path, name: str, kubeconfig: Path) -> list[str]:
    """kube-proxy with iptables, on the node's own tables."""
    return [
        str(program),
        f"--kubeconfig={kubeconfig}",
        f"--hostname-override={name}",
        "--proxy-mode=iptables",
        f"--cluster-cidr={PODS}",
        "--conntrack-max-per-core=0",
        "--iptables-min-sync-period=200ms",
        "--healthz-bind-address=0.0.0.0:10256",
        "--v=1",
    ]
