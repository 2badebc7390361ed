"""From a plan to processes that can be started: writes their configurations."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sled_cli.up.configs import edge_config, verifier_config
from sled_cli.up.fleet_plan import DevicePlan, FleetPlan, ModelRef, VerifierPlan
from sled_cli.up.keeper import Keeper
from sled_cli.up.process import ProcessSpec, Role
from sled_cli.up.state import StateFolder

Paths = Mapping[ModelRef, Path]
DEVICE_STOP_SECONDS = 20.0
"""Above the time that a device gives to texts under way."""
VERIFIER_GRACE_SECONDS = 5.0
"""On top of the drain time that the document gives."""


def process_specs(plan: FleetPlan, paths: Paths, folder: StateFolder) -> tuple[ProcessSpec, ...]:
    """Write the configuration of every process and return what starts them, verifiers first.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.write_tokens()
    return (
        *(_verifier(v, paths, folder) for v in plan.verifiers),
        *(_device(d, paths, folder) for d in plan.devices),
    )


def _verifier(plan: VerifierPlan, paths: Paths, folder: StateFolder) -> ProcessSpec:
    config = verifier_config(plan, _path(plan.model, paths), folder.tokens_file.resolve())
    return ProcessSpec(
        name=plan.name,
        role=Role.VERIFIER,
        module="sled_verifier",
        config=str(folder.write_config(Role.VERIFIER, plan.name, config)),
        ready_url=f"{plan.metrics_url}/readyz",
        stop_seconds=plan.spec.drain_seconds + VERIFIER_GRACE_SECONDS,
    )


def _device(plan: DevicePlan, paths: Paths, folder: StateFolder) -> ProcessSpec:
    config = edge_config(plan, _path(plan.model, paths), folder.token_file.resolve())
    return ProcessSpec(
        name=plan.name,
        role=Role.DEVICE,
        module="sled_edge",
        config=str(folder.write_config(Role.DEVICE, plan.name, config)),
        ready_url=f"{plan.url}/readyz",
        stop_seconds=DEVICE_STOP_SECONDS,
    )


def _path(model: ModelRef | None, paths: Paths) -> Path | None:
    return None if model is None else paths[model]


def fleet_state(
    plan: FleetPlan, keepers: Sequence[Keeper], ready: bool, folder: StateFolder
) -> dict[str, Any]:
    """What `up.json` says: who runs the fleet, whether all of it serves, and for every process where
    it listens, its state (`keeper.State`), its process id (null between two lives) and how often
    it was started again."""
    by_name = {(keeper.spec.role, keeper.spec.name): keeper for keeper in keepers}
    return {
        "pid": os.getpid(),
        "ready": ready,
        "verifiers": [
            {
                "name": v.name,
                "server": v.server,
                "model": v.spec.model.name,
                "address": v.address,
                "metrics_url": v.metrics_url,
                "token_file": str(folder.token_file.resolve()) if v.tokens else None,
                **_life(by_name[Role.VERIFIER, v.name]),
            }
            for v in plan.verifiers
        ],
        "devices": [
            {
                "name": d.name,
                "drafter": d.drafter,
                "device_class": d.device_class,
                "draft": d.draft_name,
                "url": d.url,
                "verifiers": list(d.verifiers),
                **_life(by_name[Role.DEVICE, d.name]),
            }
            for d in plan.devices
        ],
    }


def _life(keeper: Keeper) -> dict[str, Any]:
    return {"state": keeper.state.value, "pid": keeper.pid, "restarts": keeper.restarts}
