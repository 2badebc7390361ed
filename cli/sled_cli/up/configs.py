"""Renders a plan into the configuration that each process reads. Pure; writes no file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sled_cli.up.fleet_plan import DevicePlan, VerifierPlan

LOCAL_DEVICE_THREADS = 1
"""Several devices and a verifier share this machine: more threads each would only fight."""

Config = dict[str, Any]


def verifier_config(plan: VerifierPlan, model_path: Path | None, tokens_file: Path) -> Config:
    """`verifier.yaml` of one replica. `model_path` is None for the fake engine."""
    spec = plan.spec
    config: Config = {
        "listen": plan.address,
        "metricsListen": f"127.0.0.1:{plan.metrics_port}",
        "replica": plan.name,
        "model": {"name": spec.model.name},
        "engine": {
            "kind": spec.engine.kind.lower(),
            "threads": plan.threads,
            "contextTokens": spec.engine.context_tokens,
            "slots": spec.engine.slots,
        },
        "batching": spec.batching.model_dump(by_alias=True),
        "drainSeconds": spec.drain_seconds,
        "logLevel": spec.log_level,
    }
    if model_path is not None:
        config["model"]["path"] = str(model_path)
    if plan.tokens:
        config["auth"] = {"tokensFile": str(tokens_file)}
    return config


def edge_config(plan: DevicePlan, model_path: Path | None, token_file: Path) -> Config:
    """`edge.yaml` of one device. `token_file` holds the token of the SLEDServers started here; a
    verifier elsewhere takes the file that the document names."""
    spec, draft = plan.spec, plan.draft
    drafter: Config = {"kind": draft.kind.lower()}
    if model_path is not None:
        drafter["model"] = {"name": plan.draft_name, "path": str(model_path)}
    drafter["threads"] = draft.threads or LOCAL_DEVICE_THREADS
    drafter["contextTokens"] = draft.context_tokens
    config: Config = {
        "listen": f"127.0.0.1:{plan.port}",
        "deviceId": plan.name,
        "deviceClass": plan.device_class,
        "verifiers": list(plan.verifiers),
        "drafter": drafter,
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
    if plan.tokens:
        config["tokenFile"] = str(token_file)
    elif plan.token_file is not None:
        config["tokenFile"] = str(plan.token_file)
    if plan.ca_file is not None:
        config["tls"] = {"caFile": str(plan.ca_file)}
        if spec.server.server_name is not None:
            config["tls"]["serverName"] = spec.server.server_name
    return config
