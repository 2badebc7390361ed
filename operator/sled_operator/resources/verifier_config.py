"""ConfigMap of a SLEDServer: `verifier.yaml`. Pure; must not hold a secret."""

from __future__ import annotations

from typing import Any

import yaml

from sled_operator.resources.base import Manifest, manifest, server_owner
from sled_operator.resources.pod import CONFIG_DIR, cpu_threads
from sled_operator.spec import SLEDServer

GRPC_PORT = 7000
METRICS_PORT = 7001
TLS_DIR = "/etc/sled-tls"
TOKENS_DIR = "/etc/sled-tokens"
CONFIG_PATH = f"{CONFIG_DIR}/verifier.yaml"


def config_name(server: SLEDServer) -> str:
    """Name of the ConfigMap."""
    return f"{server.metadata.name}-config"


def headless_name(server: SLEDServer) -> str:
    """Name of the Service that gives each replica a DNS name."""
    return f"{server.metadata.name}-replicas"


def verifier_settings(
    server: SLEDServer, model_path: str | None, vocabulary_path: str | None = None
) -> dict[str, Any]:
    """`verifier.yaml` as a mapping; what is not said is left to the verifier's own defaults."""
    spec = server.spec
    engine: dict[str, Any] = {
        "kind": spec.engine.kind.lower(),
        "contextTokens": spec.engine.context_tokens,
        "slots": spec.engine.slots,
    }
    threads = spec.engine.threads or cpu_threads(spec.resources)
    if threads:
        engine["threads"] = threads
    if spec.engine.kind == "VLLM" and spec.gpu.count > 1:
        engine["vllm"] = {"tensorParallelSize": spec.gpu.count}
    if spec.engine.kind == "Torch" and spec.gpu.count:
        engine["torch"] = {"device": "cuda"}
    if spec.engine.url is not None:
        engine["openai"] = {"url": spec.engine.url}
    paths = {"path": model_path, "vocabulary": vocabulary_path}
    model = {"name": spec.model.name} | {key: path for key, path in paths.items() if path}
    settings: dict[str, Any] = {
        "listen": f"0.0.0.0:{GRPC_PORT}",
        "metricsListen": f"0.0.0.0:{METRICS_PORT}",
        "model": model,
        "engine": engine,
        "batching": spec.batching.model_dump(by_alias=True),
        "peers": f"{headless_name(server)}.{server.metadata.namespace}.svc:{METRICS_PORT}",
        "drainSeconds": spec.drain_seconds,
        "logLevel": spec.log_level,
    }
    if spec.tls.mode == "Disabled":
        settings["insecure"] = True
    else:
        settings["tls"] = {"certFile": f"{TLS_DIR}/tls.crt", "keyFile": f"{TLS_DIR}/tls.key"}
    if spec.auth.mode == "DeviceTokens":
        settings["auth"] = {"tokensFile": f"{TOKENS_DIR}/tokens"}
    return settings


def verifier_config(
    server: SLEDServer, model_path: str | None, vocabulary_path: str | None = None
) -> Manifest:
    """The ConfigMap with the key `verifier.yaml`."""
    settings = verifier_settings(server, model_path, vocabulary_path)
    text = yaml.safe_dump(settings, sort_keys=True)
    return manifest(
        server_owner(server),
        "v1",
        "ConfigMap",
        config_name(server),
        {"data": {"verifier.yaml": text}},
    )
