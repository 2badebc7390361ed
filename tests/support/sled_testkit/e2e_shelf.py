"""The models of the end-to-end scenarios: a folder that every node mounts, as a shared volume would be.

Must not know who loads them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from sled_cli.models.store import ModelStore
from sled_testkit.cluster_api import Api
from sled_testkit.e2e_specs import FLEET, LARGE, SMALL, TARGET


class Shelf:
    """One folder of GGUF files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """Where a model lies."""
        return self.folder / f"{name}.gguf"

    def fill(self) -> None:
        """The target and two draft models, from the user's cache."""
        self.folder.mkdir(exist_ok=True)
        store = ModelStore()
        for name in (TARGET, SMALL, LARGE):
            shutil.copy(store.fetch(f"catalog://{name}"), self.path(name))
            self.path(name).chmod(0o644)
        self.folder.chmod(0o755)

    def spoil(self, good: str, bad: str) -> None:
        """A model that loads and drafts nonsense: half of its weights are zero."""
        data = bytearray(self.path(good).read_bytes())
        middle = len(data) // 2
        data[middle:] = bytes(len(data) - middle)
        self.path(bad).write_bytes(data)
        self.path(bad).chmod(0o644)

    def claim(self, api: Api) -> None:
        """The claim `models` of the fleet's namespace, on a volume that is this folder."""
        size = {"storage": "10Gi"}
        modes = ["ReadOnlyMany"]
        host_path = {"path": str(self.folder), "type": "Directory"}
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "models"},
            "spec": {"capacity": size, "accessModes": modes, "hostPath": host_path}
            | {"storageClassName": "", "claimRef": {"name": "models", "namespace": FLEET}},
        }
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "models"},
            "spec": {"accessModes": modes, "storageClassName": "", "volumeName": "models"}
            | {"resources": {"requests": size}},
        }
        api.create("/api/v1/persistentvolumes", volume)
        api.create(f"/api/v1/namespaces/{FLEET}/persistentvolumeclaims", claim)
