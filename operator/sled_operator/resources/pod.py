"""What verifier and drafter pods share: restricted security, model volumes, resources. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sled_operator.names import FETCH_PREFIX, digest
from sled_operator.spec.shared import Resources, Tolerations

Json = dict[str, Any]

MODEL_DIR = "/models"
CACHE_DIR = "/cache"
CONFIG_DIR = "/etc/sled"

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
class Download:
    """How a pod downloads what a source names."""

    image: str
    pull_policy: str
    sha256: str | None = None
    credentials_secret_name: str | None = None
    """Its keys become environment variables."""


@dataclass(frozen=True, slots=True)
class ModelMount:
    """How a model gets into a pod: the path that the process opens, and what makes it appear."""

    path: str
    volumes: list[Json] = field(default_factory=list)
    mounts: list[Json] = field(default_factory=list)
    init_containers: list[Json] = field(default_factory=list)


def model_mount(
    source: str, download: Download, *, folder: bool = False, part: str = "model"
) -> ModelMount:
    """The mount of one source.

    `oci://` is an image volume, which the kubelet pulls and keeps; `pvc://` a claim; `file://` a
    path that the image or the pod template brings; the others are downloaded into the cache by an
    init container, once per cache, checked against `sha256`.

    Args:
        source: where it comes from.
        download: image and settings of the init container.
        folder: the process opens a folder rather than one GGUF file.
        part: names volume, folder and init container.
    """
    scheme, rest = source.split("://", 1)
    place = MODEL_DIR if part == "model" else f"/{part}"
    if scheme == "oci":
        reference, _, file = rest.partition("#")
        image = {"reference": reference, "pullPolicy": download.pull_policy}
        return _mounted(part, place, file or ("" if folder else "model.gguf"), {"image": image})
    if scheme == "pvc":
        claim, _, file = rest.partition("/")
        volume = {"persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
        return _mounted(part, place, file, volume)
    if scheme == "file":
        return ModelMount(path="/" + rest.lstrip("/"))
    # a name of its own for every source: pods of one node may share a cache
    link = f"{CACHE_DIR}/{part}-{digest(source)}" + ("" if folder else ".gguf")
    return ModelMount(path=link, init_containers=[_fetch(part, source, link, download)])


def is_fetched(source: str) -> bool:
    """Whether an init container downloads it, rather than the kubelet or nobody."""
    return source.partition("://")[0] in ("hf", "s3", "catalog")


def _mounted(part: str, place: str, file: str, volume: Json) -> ModelMount:
    return ModelMount(
        path=f"{place}/{file}".rstrip("/"),
        volumes=[{"name": part, **volume}],
        mounts=[{"name": part, "mountPath": place, "readOnly": True}],
    )


def _fetch(part: str, source: str, link: str, download: Download) -> Json:
    command = ["sled", "models", "fetch", source, "--link", link]
    if download.sha256 is not None:
        command += ["--sha256", download.sha256]
    container: Json = {
        "name": f"{FETCH_PREFIX}{part}",
        "image": download.image,
        "imagePullPolicy": download.pull_policy,
        "command": command,
        "env": [{"name": "SLED_CACHE", "value": CACHE_DIR}],
        "securityContext": CONTAINER_SECURITY,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "cache", "mountPath": CACHE_DIR},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    if download.credentials_secret_name is not None:
        container["envFrom"] = [{"secretRef": {"name": download.credentials_secret_name}}]
    return container


def joined(*mounts: ModelMount | None) -> ModelMount:
    """What several mounts bring to one pod; the path is the first one's."""
    found = [mount for mount in mounts if mount is not None]
    return ModelMount(
        path=found[0].path if found else "",
        volumes=[each for mount in found for each in mount.volumes],
        mounts=[each for mount in found for each in mount.mounts],
        init_containers=[each for mount in found for each in mount.init_containers],
    )


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
