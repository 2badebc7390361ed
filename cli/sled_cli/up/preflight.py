"""Asks verifier and device whether they would take what the plan gives them, before anything runs.

A resource that is valid on a cluster may still be none that the processes of this version take. Starts nothing.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from sled_cli.errors import BadInput
from sled_cli.up.configs import edge_config, verifier_config
from sled_cli.up.fleet_plan import FleetPlan

_SOME_FILE = Path("file")


def check_configs(plan: FleetPlan) -> None:
    """Validate every configuration; model files are not looked for yet.

    Raises:
        BadInput: a process would refuse its configuration; the message names process and field.
    """
    from sled_edge.config import ConfigError as EdgeRefusal
    from sled_edge.config import parse_config as parse_edge
    from sled_verifier.config import parse_config as parse_verifier
    from sled_verifier.refusal import ConfigError as VerifierRefusal

    try:
        for verifier in plan.verifiers:
            model = None if verifier.model is None else _SOME_FILE
            text = yaml.safe_dump(verifier_config(verifier, model, _SOME_FILE))
            parse_verifier(text, f"verifier {verifier.name}")
        for device in plan.devices:
            model = None if device.model is None else _SOME_FILE
            text = yaml.safe_dump(edge_config(device, model, _SOME_FILE))
            parse_edge(text, f"device {device.name}")
    except (EdgeRefusal, VerifierRefusal) as error:
        raise BadInput(str(error)) from error
