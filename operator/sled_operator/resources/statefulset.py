"""StatefulSet of a SLEDServer: the verifier replicas. Pure."""

from __future__ import annotations

from typing import Any

from sled_operator.lost_pods import NODE_LOSS_SECONDS
from sled_operator.names import CONFIG_HASH
from sled_operator.resources import pod
from sled_operator.resources.base import Manifest, manifest, server_owner
from sled_operator.resources.merge import merge
from sled_operator.resources.secret import tls_secret_name, tokens_secret_name
from sled_operator.resources.verifier_config import (
    CONFIG_PATH,
    GRPC_PORT,
    METRICS_PORT,
    TLS_DIR,
    TOKENS_DIR,
    config_name,
    headless_name,
)
from sled_operator.spec import SLEDServer

Json = dict[str, Any]
FOLDER_ENGINES = ("VLLM", "Torch")
STARTUP_MINUTES = 60
"""How long a model may take to arrive and load."""


def model_of(server: SLEDServer, image: str) -> pod.ModelMount | None:
    """How the target model gets into the pods; None when the engine needs no file."""
    model = server.spec.model
    if model.source is None:
        return None
    download = _download(server, image, model.sha256)
    folder = server.spec.engine.kind in FOLDER_ENGINES
    return pod.model_mount(model.source, download, folder=folder)


def vocabulary_of(server: SLEDServer, image: str) -> pod.ModelMount | None:
    """How the vocabulary's own file gets into the pods; None when there is none."""
    source = server.spec.model.vocabulary
    if source is None:
        return None
    return pod.model_mount(source, _download(server, image, None), part="vocabulary")


def _download(server: SLEDServer, image: str, sha256: str | None) -> pod.Download:
    spec = server.spec
    return pod.Download(image, spec.image_pull_policy, sha256, spec.model.credentials_secret_name)


def verifier_statefulset(
    server: SLEDServer, image: str, replicas: int | None, config_hash: str
) -> Manifest:
    """The StatefulSet.

    Args:
        server: the resource. image: verifier image, when the resource names none. replicas: None
        leaves the field to another scaler. config_hash: of the configuration; a change of it rolls
        the pods. Certificates and tokens are
            read again by the verifier itself.
    """
    owner = server_owner(server)
    spec: Json = {
        "serviceName": headless_name(server),
        "podManagementPolicy": "Parallel",
        "selector": {"matchLabels": owner.selector},
        "template": _template(server, server.spec.image or image, config_hash),
    }
    if replicas is not None:
        spec["replicas"] = replicas
    if server.spec.cache.type == "PersistentVolume":
        spec["volumeClaimTemplates"] = [_claim(server)]
        spec["persistentVolumeClaimRetentionPolicy"] = {
            "whenDeleted": "Delete",
            "whenScaled": "Retain",
        }
    return manifest(owner, "apps/v1", "StatefulSet", server.metadata.name, {"spec": spec})


def _template(server: SLEDServer, image: str, config_hash: str) -> Json:
    spec = server.spec
    owner = server_owner(server)
    model = pod.joined(model_of(server, image), vocabulary_of(server, image))
    body: Json = {
        "serviceAccountName": server.metadata.name,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": spec.drain_seconds + 10,
        "securityContext": pod.POD_SECURITY,
        "containers": [_container(server, image, model)],
        "volumes": _volumes(server, model),
    }
    if model.init_containers:
        body["initContainers"] = model.init_containers
    if spec.topology_spread.over:
        body["topologySpreadConstraints"] = _spread(server)
    optional: Json = {
        "nodeSelector": dict(spec.node_selector),
        "tolerations": _tolerations(server),
        "imagePullSecrets": pod.pull_secrets(spec.image_pull_secrets),
        "affinity": _gpu_affinity(server),
        "resourceClaims": _claims(server),
    }
    body |= {name: value for name, value in optional.items() if value}
    template: Json = {
        "metadata": {"labels": owner.labels, "annotations": {CONFIG_HASH: config_hash}},
        "spec": body,
    }
    merged = merge(template, spec.pod_template)
    merged["metadata"]["labels"] |= owner.selector
    return merged


def _tolerations(server: SLEDServer) -> list[Json]:
    """The user's, and how long a replica waits for a lost node where the user does not say."""
    own = server.spec.tolerations
    loss = [
        {
            "key": f"node.kubernetes.io/{taint}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": NODE_LOSS_SECONDS,
        }
        for taint in ("not-ready", "unreachable")
        if not any(each.key in (None, f"node.kubernetes.io/{taint}") for each in own)
    ]
    return [*pod.tolerations(own), *loss]


def _container(server: SLEDServer, image: str, model: pod.ModelMount) -> Json:
    spec = server.spec
    limits = {}
    if spec.gpu.count and spec.gpu.allocation == "DevicePlugin":
        limits = {spec.gpu.resource_name: spec.gpu.count}
    resources = pod.resources(spec.resources, limits)
    if _claims(server):
        resources["claims"] = [{"name": "gpu"}]
    return {
        "name": "verifier",
        "image": image,
        "imagePullPolicy": spec.image_pull_policy,
        "command": ["sled-verifier"],
        "args": ["--config", CONFIG_PATH, "--replica", "$(POD_NAME)", *spec.engine.args],
        "env": _environment(server),
        "ports": [
            {"name": "grpc", "containerPort": GRPC_PORT, "protocol": "TCP"},
            {"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"},
        ],
        "startupProbe": _probe("/readyz", period=10, failures=STARTUP_MINUTES * 6),
        "readinessProbe": _probe("/readyz", period=5, failures=2),
        "livenessProbe": _probe("/healthz", period=20, failures=3),
        "resources": resources,
        "securityContext": pod.CONTAINER_SECURITY,
        "volumeMounts": _mounts(server, model),
    }


def _environment(server: SLEDServer) -> list[Json]:
    """torch and vLLM write compiled kernels below HOME, and the root file system is read-only."""
    name: Json = {
        "name": "POD_NAME",
        "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}},
    }
    home = {"name": "HOME", "value": "/tmp"}
    return [name, home] if server.spec.engine.kind in FOLDER_ENGINES else [name]


def _probe(path: str, period: int, failures: int) -> Json:
    return {
        "httpGet": {"path": path, "port": "metrics"},
        "periodSeconds": period,
        "failureThreshold": failures,
        "timeoutSeconds": 3,
    }


def _volumes(server: SLEDServer, model: pod.ModelMount) -> list[Json]:
    spec = server.spec
    volumes: list[Json] = [
        {"name": "config", "configMap": {"name": config_name(server)}},
        {"name": "tmp", "emptyDir": {}},
    ]
    if spec.tls.mode != "Disabled":
        items = [{"key": key, "path": key} for key in ("tls.crt", "tls.key")]
        volumes.append(
            {"name": "tls", "secret": {"secretName": tls_secret_name(server), "items": items}}
        )
    if spec.auth.mode == "DeviceTokens":
        items = [{"key": "tokens", "path": "tokens"}]
        volumes.append(
            {"name": "tokens", "secret": {"secretName": tokens_secret_name(server), "items": items}}
        )
    if spec.cache.type == "EmptyDir":
        volumes.append({"name": "cache", "emptyDir": {"sizeLimit": spec.cache.size}})
    elif spec.cache.type == "HostPath":
        path = {"path": spec.cache.path, "type": "DirectoryOrCreate"}
        volumes.append({"name": "cache", "hostPath": path})
    if _needs_shared_memory(server):
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory"}})
    return volumes + model.volumes


def _mounts(server: SLEDServer, model: pod.ModelMount) -> list[Json]:
    mounts: list[Json] = [
        {"name": "config", "mountPath": pod.CONFIG_DIR, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "cache", "mountPath": pod.CACHE_DIR},
    ]
    if server.spec.tls.mode != "Disabled":
        mounts.append({"name": "tls", "mountPath": TLS_DIR, "readOnly": True})
    if server.spec.auth.mode == "DeviceTokens":
        mounts.append({"name": "tokens", "mountPath": TOKENS_DIR, "readOnly": True})
    if _needs_shared_memory(server):
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    return mounts + model.mounts


def _needs_shared_memory(server: SLEDServer) -> bool:
    """vLLM's processes on several GPUs exchange tensors there; the default is 64 MiB."""
    return server.spec.engine.kind == "VLLM" and server.spec.gpu.count > 1


def _claim(server: SLEDServer) -> Json:
    cache = server.spec.cache
    spec: Json = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": cache.size}},
    }
    if cache.storage_class_name is not None:
        spec["storageClassName"] = cache.storage_class_name
    return {"metadata": {"name": "cache"}, "spec": spec}


def _spread(server: SLEDServer) -> list[Json]:
    return [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": server.spec.topology_spread.when_unsatisfiable,
            "labelSelector": {"matchLabels": server_owner(server).selector},
        }
        for key in server.spec.topology_spread.over
    ]


def _gpu_affinity(server: SLEDServer) -> Json:
    gpu = server.spec.gpu
    wanted: list[Json] = []
    if gpu.count and gpu.product_affinity:
        wanted.append(
            {
                "key": "nvidia.com/gpu.product",
                "operator": "In",
                "values": list(gpu.product_affinity),
            }
        )
    if gpu.count and gpu.min_memory_mib and gpu.allocation == "DevicePlugin":
        least = str(gpu.min_memory_mib - 1)
        wanted.append({"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": [least]})
    if not wanted:
        return {}
    terms = {"nodeSelectorTerms": [{"matchExpressions": wanted}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


def _claims(server: SLEDServer) -> list[Json]:
    gpu = server.spec.gpu
    if not gpu.count or gpu.allocation != "DRA":
        return []
    return [{"name": "gpu", "resourceClaimTemplateName": f"{server.metadata.name}-gpu"}]
