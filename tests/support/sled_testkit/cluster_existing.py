"""Decide whether a cluster that the user points to may be used for tests.

Why: `KUBECONFIG` is often exported for daily work, and a test run creates cluster-wide resource
definitions and deletes them again. A cluster on this machine (kind, k3d, minikube with a loopback
port) is taken as meant for that; any other needs a word. Must not touch the cluster.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from sled_testkit import cluster_tools

ALLOW = "SLED_TEST_ANY_CLUSTER"


@dataclass(frozen=True, slots=True)
class Given:
    """What the environment offers: a flattened kubeconfig to use, or why it is left alone."""

    kubeconfig: str | None = None
    left_alone: str | None = None


def given() -> Given:
    """Read KUBECONFIG; neither field is set when there is none."""
    if not os.environ.get("KUBECONFIG"):
        return Given()
    flat = _view("--raw", "--flatten")
    server = _view("-o", "jsonpath={.clusters[0].cluster.server}").strip()
    if is_local(server) or os.environ.get(ALLOW) == "1":
        return Given(kubeconfig=flat)
    return Given(
        left_alone=f"KUBECONFIG points to {server}, which is not on this machine, so it is left "
        f"alone; {ALLOW}=1 runs the tests there"
    )


def is_local(server: str) -> bool:
    """Whether an API server's address is this machine's loopback."""
    host = urlsplit(server).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def write(kubeconfig: str, folder: Path) -> Path:
    """Store a flattened kubeconfig with its certificates as files, as `cluster_api` reads them."""
    document = yaml.safe_load(kubeconfig)
    parts = (
        (document["clusters"][0]["cluster"], "certificate-authority"),
        (document["users"][0]["user"], "client-certificate"),
        (document["users"][0]["user"], "client-key"),
    )
    for part, name in parts:
        if data := part.pop(f"{name}-data", None):
            file = folder / f"existing-{name}.pem"
            file.touch(mode=0o600)
            file.write_bytes(base64.b64decode(data))
            part[name] = str(file)
    path = folder / "existing.kubeconfig"
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(document))
    return path


def _view(*arguments: str) -> str:
    done = subprocess.run(
        [str(cluster_tools.kubectl()), "config", "view", "--minify", *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return done.stdout
