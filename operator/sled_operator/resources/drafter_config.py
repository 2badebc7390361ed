"""ConfigMap of one revision of an EdgeDrafter: an `edge.yaml` per draft model and device class.
Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from sled_operator.assignment.classes import DeviceClass
from sled_operator.names import REVISION
from sled_operator.resources.base import Manifest, drafter_owner, manifest
from sled_operator.resources.pod import cpu_threads
from sled_operator.resources.service import API_PORT
from sled_operator.revision import Snapshot
from sled_operator.spec import EdgeDrafter
from sled_operator.spec.drafts import Draft

TLS_DIR = "/etc/sled-tls"
TOKEN_DIR = "/etc/sled-token"
_MODES = {"LlamaCpp": "llamacpp", "NGram": "ngram", "Fake": "fake"}


def config_name(drafter: EdgeDrafter, revision: str) -> str:
    """Name of the ConfigMap."""
    return f"{drafter.metadata.name}-{revision}"


def config_key(draft: Draft, device_class: DeviceClass) -> str:
    """Key of one configuration."""
    return f"{draft.name}.{device_class.name}.yaml"


def edge_settings(
    snapshot: Snapshot, draft: Draft, device_class: DeviceClass, model_path: str | None
) -> dict[str, Any]:
    """`edge.yaml` as a mapping; the device's name is each pod's own, given as an argument."""
    spec = snapshot.spec
    model = {"name": draft.model or draft.name, "path": model_path} if model_path else None
    threads = draft.threads or cpu_threads(spec.resources) or device_class.threads
    endpoint = snapshot.endpoint
    settings: dict[str, Any] = {
        "listen": f"0.0.0.0:{API_PORT}",
        "deviceId": "named-by-its-node",
        "deviceClass": device_class.name,
        "revision": snapshot.name,
        "verifiers": [endpoint.address],
        "drafter": {
            "kind": _MODES[draft.kind],
            "threads": threads,
            "contextTokens": draft.context_tokens,
        }
        | ({"model": model} if model else {}),
        "drafting": {
            "maxTokens": spec.drafting.max_tokens,
            "mode": spec.drafting.mode,
            "minConfidence": spec.drafting.min_confidence_permille / 1000,
            "maxProbs": spec.drafting.max_probs,
        },
        "offline": {
            "policy": spec.offline.policy,
            "patienceSeconds": spec.offline.patience_seconds,
        },
        "sequences": spec.sequences,
        "logLevel": spec.log_level,
    }
    if endpoint.ca_secret_name is not None:
        tls = {"caFile": f"{TLS_DIR}/ca.crt"}
        if endpoint.server_name is not None:
            tls["serverName"] = endpoint.server_name
        settings["tls"] = tls
    if endpoint.token_secret_name is not None:
        settings["tokenFile"] = f"{TOKEN_DIR}/token"
    return settings


def drafter_config(
    drafter: EdgeDrafter,
    snapshot: Snapshot,
    configs: Iterable[tuple[Draft, DeviceClass, str | None]],
) -> Manifest:
    """The ConfigMap of a revision; `configs` holds draft, class and model path."""
    data = {
        config_key(draft, device_class): yaml.safe_dump(
            edge_settings(snapshot, draft, device_class, path), sort_keys=True
        )
        for draft, device_class, path in configs
    }
    return manifest(
        drafter_owner(drafter),
        "v1",
        "ConfigMap",
        config_name(drafter, snapshot.name),
        {"data": dict(sorted(data.items()))},
        labels={REVISION: snapshot.name},
    )
