"""What verifier and drafter pods share: restricted security, model volumes, resources. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sled_operator.names import FETCH_CONTAINER
from sled_operator.spec.shared import Resources, Tolerations

Json = dict[str, Any]

MODEL_DIR = "/models"
CACHE_DIR = "/cache"
CONFIG_DIR = "/etc/sled"
FETCHED = ("hf", "s3", "catalog")

CONTAINER_SECURITY: Json = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
POD_SECURITY: Json = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "runAsGroup": 65532,
    "fsGroup": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@dataclass(frozen=True, slots=True)
class ModelMount:
    """How a model gets into a pod: the path that the process opens, and what makes it appear."""

    path: str
    volumes: list[Json] = field(default_factory=list)
    mounts: list[Json] = field(default_factory=list)
    init_containers: list[Json] = field(default_factory=list)


def model_mount(source: str, sha256: str | None, image: str, pull_policy: str) -> ModelMount:
    """The mount of one model source.

    `oci://` is an image volume, which the kubelet pulls and keeps; `pvc://` a claim; `file://` a
    path that the image or the pod template brings; the others are downloaded into the cache by an
    init container, once per cache, checked against `sha256`.
    """
    scheme, rest = source.split("://", 1)
    if scheme == "oci":
        reference, _, file = rest.partition("#")
        return ModelMount(
            path=f"{MODEL_DIR}/{file or 'model.gguf'}",
            volumes=[
                {"name": "model", "image": {"reference": reference, "pullPolicy": pull_policy}}
            ],
            mounts=[{"name": "model", "mountPath": MODEL_DIR, "readOnly": True}],
        )
    if scheme == "pvc":
        claim, _, file = rest.partition("/")
        return ModelMount(
            path=f"{MODEL_DIR}/{file}",
            volumes=[
                {"name": "model", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
            ],
            mounts=[{"name": "model", "mountPath": MODEL_DIR, "readOnly": True}],
        )
    if scheme == "file":
        return ModelMount(path="/" + rest.lstrip("/"))
    return ModelMount(
        path=f"{CACHE_DIR}/model.gguf", init_containers=[_fetch(source, sha256, image, pull_policy)]
    )


def _fetch(source: str, sha256: str | None, image: str, pull_policy: str) -> Json:
    command = ["sled", "models", "fetch", source, "--link", f"{CACHE_DIR}/model.gguf"]
    if sha256 is not None:
        command += ["--sha256", sha256]
    return {
        "name": FETCH_CONTAINER,
        "image": image,
        "imagePullPolicy": pull_policy,
        "command": command,
        "env": [{"name": "SLED_CACHE", "value": CACHE_DIR}],
        "securityContext": CONTAINER_SECURITY,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "cache", "mountPath": CACHE_DIR},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }


def quantities(amounts: Mapping[str, int | str]) -> dict[str, str]:
    """Amounts as the API server writes them back, so that they compare equal."""
    return {name: str(amount) for name, amount in sorted(amounts.items())}


def resources(spec: Resources, extra_limits: Mapping[str, int | str] | None = None) -> Json:
    """The container's resources; empty parts are left out."""
    limits = quantities({**spec.limits, **(extra_limits or {})})
    requests = quantities(spec.requests)
    return ({"requests": requests} if requests else {}) | ({"limits": limits} if limits else {})


def cpu_threads(spec: Resources) -> int | None:
    """Whole CPUs that the container may use, from its limit, else its request; None = not said."""
    amount = spec.limits.get("cpu", spec.requests.get("cpu"))
    if amount is None:
        return None
    text = str(amount)
    cores = float(text[:-1]) / 1000 if text.endswith("m") else float(text) if _plain(text) else 1.0
    return max(1, int(cores))


def _plain(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def tolerations(items: Tolerations) -> list[Json]:
    """Tolerations as a pod has them."""
    return [item.model_dump(by_alias=True, exclude_none=True) for item in items]


def pull_secrets(names: tuple[str, ...]) -> list[Json]:
    """References to image pull secrets."""
    return [{"name": name} for name in names]
