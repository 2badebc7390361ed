"""DaemonSet of one draft model on one device class in one revision. Pure.

It runs where the operator's node label says so. Nothing rolls inside a DaemonSet: a change is a new
revision with DaemonSets of its own, and nodes are moved to it by relabelling.
"""

from __future__ import annotations

from typing import Any

from sled_operator.assignment.classes import DeviceClass
from sled_operator.names import (
    AHEAD,
    DEVICE_CLASS,
    DRAFT,
    DRAFTER,
    REVISION,
    ahead_label,
    digest,
    node_label,
    node_value,
)
from sled_operator.resources import pod
from sled_operator.resources.base import Manifest, drafter_owner, manifest
from sled_operator.resources.drafter_config import TLS_DIR, TOKEN_DIR, config_key, config_name
from sled_operator.resources.merge import merge
from sled_operator.resources.service import API_PORT
from sled_operator.revision import Snapshot
from sled_operator.spec import EdgeDrafter
from sled_operator.spec.drafts import Draft

Json = dict[str, Any]
STARTUP_MINUTES = 60
"""How long a model may take to arrive over a device's link."""


def daemonset_name(drafter: EdgeDrafter, draft: Draft, device_class: str, revision: str) -> str:
    """Name of the DaemonSet."""
    return f"{drafter.metadata.name}-{draft.name}-{device_class}-{revision}"


def image_of(snapshot: Snapshot, device_class: DeviceClass) -> str:
    """The resource's image, else the operator's for the class's runtime."""
    return snapshot.spec.image or snapshot.images[device_class.variant]


def model_of(snapshot: Snapshot, draft: Draft, device_class: DeviceClass) -> pod.ModelMount | None:
    """How the draft model gets into the pods; None when the drafter needs no file."""
    if draft.source is None:
        return None
    image = image_of(snapshot, device_class)
    policy = snapshot.spec.image_pull_policy
    download = pod.Download(image, policy, draft.sha256, draft.credentials_secret_name)
    return pod.model_mount(draft.source, download)


def drafter_daemonset(
    drafter: EdgeDrafter, snapshot: Snapshot, draft: Draft, device_class: DeviceClass
) -> Manifest:
    """The DaemonSet."""
    owner = drafter_owner(drafter)
    what = {DRAFT: draft.name, DEVICE_CLASS: device_class.name, REVISION: snapshot.name}
    template = merge(
        _template(drafter, snapshot, draft, device_class, owner.labels | what),
        snapshot.spec.pod_template,
    )
    template["metadata"]["labels"] |= owner.selector | what
    template["spec"]["nodeSelector"] = _nodes(drafter, snapshot, draft, device_class)
    spec = {
        "selector": {"matchLabels": owner.selector | what},
        "updateStrategy": {"type": "OnDelete"},
        "template": template,
    }
    name = daemonset_name(drafter, draft, device_class.name, snapshot.name)
    return manifest(owner, "apps/v1", "DaemonSet", name, {"spec": spec}, labels=what)


def ahead_daemonset(
    drafter: EdgeDrafter, snapshot: Snapshot, draft: Draft, device_class: DeviceClass
) -> Manifest:
    """The DaemonSet that fetches a model to nodes on which another drafter still serves.

    Its pods carry no label of the drafter's Service, hold no port and do nothing but wait once the
    model is there.
    """
    owner = drafter_owner(drafter)
    meta = drafter.metadata
    what = {DRAFT: draft.name, DEVICE_CLASS: device_class.name, REVISION: snapshot.name}
    labels = {k: v for k, v in owner.labels.items() if k != DRAFTER} | {AHEAD: meta.name}
    template = _template(drafter, snapshot, draft, device_class, labels | what)
    used = ("cache", "tmp")
    body = template["spec"]
    body["volumes"] = [each for each in body["volumes"] if each["name"] in used]
    body["terminationGracePeriodSeconds"] = 1
    body["nodeSelector"] = {
        ahead_label(meta.namespace, meta.name): node_value(
            draft.name, device_class.name, snapshot.name
        )
    }
    body["containers"] = [
        {
            "name": "wait",
            "image": image_of(snapshot, device_class),
            "imagePullPolicy": snapshot.spec.image_pull_policy,
            "command": ["sleep", "infinity"],
            "resources": {"requests": {"cpu": "1m", "memory": "8Mi"}},
            "securityContext": pod.CONTAINER_SECURITY,
        }
    ]
    spec = {
        "selector": {"matchLabels": {AHEAD: meta.name} | what},
        "updateStrategy": {"type": "OnDelete"},
        "template": template,
    }
    name = f"{meta.name}-ahead-{digest(what)}"
    return manifest(owner, "apps/v1", "DaemonSet", name, {"spec": spec}, labels=what)


def _nodes(
    drafter: EdgeDrafter, snapshot: Snapshot, draft: Draft, device_class: DeviceClass
) -> Json:
    key = node_label(drafter.metadata.namespace, drafter.metadata.name)
    return {key: node_value(draft.name, device_class.name, snapshot.name)}


def _template(
    drafter: EdgeDrafter,
    snapshot: Snapshot,
    draft: Draft,
    device_class: DeviceClass,
    labels: dict[str, str],
) -> Json:
    spec = snapshot.spec
    model = model_of(snapshot, draft, device_class)
    body: Json = {
        "serviceAccountName": drafter.metadata.name,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 30,
        "securityContext": pod.POD_SECURITY,
        "containers": [_container(snapshot, draft, device_class, model)],
        "volumes": _volumes(drafter, snapshot, draft, device_class, model),
    }
    if model is not None and model.init_containers:
        body["initContainers"] = model.init_containers
    optional = {
        "tolerations": pod.tolerations(spec.tolerations),
        "imagePullSecrets": pod.pull_secrets(spec.image_pull_secrets),
    }
    body |= {name: value for name, value in optional.items() if value}
    return {"metadata": {"labels": labels}, "spec": body}


def _container(
    snapshot: Snapshot, draft: Draft, device_class: DeviceClass, model: pod.ModelMount | None
) -> Json:
    spec = snapshot.spec
    port: Json = {"name": "http", "containerPort": API_PORT, "protocol": "TCP"}
    if spec.api.host_port is not None:
        port |= {"hostPort": spec.api.host_port, "hostIP": spec.api.host_ip}
    resources = pod.resources(spec.resources)
    if not {"memory"} & (spec.resources.requests.keys() | spec.resources.limits.keys()):
        requests = resources.get("requests", {})
        resources["requests"] = requests | {"memory": f"{draft.profile.memory_mib}Mi"}
    return {
        "name": "drafter",
        "image": image_of(snapshot, device_class),
        "imagePullPolicy": spec.image_pull_policy,
        "command": ["sled-edge"],
        "args": [
            "--config",
            f"{pod.CONFIG_DIR}/edge.yaml",
            "--device-id",
            "$(NODE_NAME)",
            *draft.args,
        ],
        "env": [
            {
                "name": "NODE_NAME",
                "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.nodeName"}},
            }
        ],
        "ports": [port],
        "startupProbe": _probe("/healthz", period=10, failures=STARTUP_MINUTES * 6),
        "readinessProbe": _probe("/readyz", period=10, failures=3),
        "livenessProbe": _probe("/healthz", period=30, failures=3),
        "resources": resources,
        "securityContext": pod.CONTAINER_SECURITY,
        "volumeMounts": _mounts(snapshot, model),
    }


def _probe(path: str, period: int, failures: int) -> Json:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period,
        "failureThreshold": failures,
        "timeoutSeconds": 3,
    }


def _volumes(
    drafter: EdgeDrafter,
    snapshot: Snapshot,
    draft: Draft,
    device_class: DeviceClass,
    model: pod.ModelMount | None,
) -> list[Json]:
    cache, endpoint = snapshot.spec.cache, snapshot.endpoint
    key = config_key(draft, device_class)
    config = {
        "name": config_name(drafter, snapshot.name),
        "items": [{"key": key, "path": "edge.yaml"}],
    }
    store: Json = {"emptyDir": {"sizeLimit": cache.size}}
    if cache.type == "HostPath":
        store = {"hostPath": {"path": cache.path, "type": "DirectoryOrCreate"}}
    volumes: list[Json] = [
        {"name": "config", "configMap": config},
        {"name": "tmp", "emptyDir": {}},
        {"name": "cache", **store},
    ]
    for name, secret, item in (
        ("tls", endpoint.ca_secret_name, "ca.crt"),
        ("token", endpoint.token_secret_name, "token"),
    ):
        if secret is not None:
            items = [{"key": item, "path": item}]
            volumes.append({"name": name, "secret": {"secretName": secret, "items": items}})
    return volumes + (model.volumes if model else [])


def _mounts(snapshot: Snapshot, model: pod.ModelMount | None) -> list[Json]:
    mounts: list[Json] = [
        {"name": "config", "mountPath": pod.CONFIG_DIR, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "cache", "mountPath": pod.CACHE_DIR},
    ]
    if snapshot.endpoint.ca_secret_name is not None:
        mounts.append({"name": "tls", "mountPath": TLS_DIR, "readOnly": True})
    if snapshot.endpoint.token_secret_name is not None:
        mounts.append({"name": "token", "mountPath": TOKEN_DIR, "readOnly": True})
    return mounts + (model.mounts if model else [])
