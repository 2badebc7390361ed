"""The table of end-to-end scenarios, from the file that a run of them wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BEGIN = "<!-- e2e: written by `make docs` from bench/results -->"
END = "<!-- /e2e -->"
SCENARIOS = {
    "first_install": (
        "`helm install`, one server, one fleet",
        "until both are Ready",
    ),
    "new_node_joins": (
        "a node joins and is given the draft model that fits it",
        "from power-on to its first token",
    ),
    "label_changes_assignment": (
        "a node's label changes what it drafts with, under a generation",
        "until the other model serves",
    ),
    "verifier_killed": (
        "the verifier is killed under a generation",
        "longest pause in the text",
    ),
    "operator_away": (
        "the operator is away while devices generate and a resource changes",
        "from its return until the change is done",
    ),
    "api_server_away": (
        "the API server is away while devices generate",
        "from its return until a change is done",
    ),
    "api_server_away_operator": (
        "the same",
        "from its return until the operator has acted",
    ),
    "api_server_away_controllers": (
        "the same",
        "from its return until Kubernetes' controllers have acted on that",
    ),
    "device_cut_off": (
        "a device is cut off, writes on by its offline policy, marked as unverified",
        "from the link's return to verified text",
    ),
    "scaled_up": (
        "the queue grows: a second verifier",
        "from the first prompt until it serves",
    ),
    "devices_spread": (
        "running devices spread over both verifiers, under generations",
        "from the second one's start until both write",
    ),
    "scaled_down": (
        "the load falls: the second verifier drains under generations",
        "until it is gone",
    ),
    "server_node_dies": (
        "the node of the only verifier loses its power under three generations",
        "longest pause in a text",
    ),
    "bad_model_rolled_back": (
        "a draft model that drafts nonsense rolls out to a first wave",
        "until its acceptance has it taken back",
    ),
    "good_change_rolled_out": (
        "a good change goes through the same wave and gates, under generations",
        "until every device has it",
    ),
    "certificate_and_token_rotated": (
        "certificate and device token are rotated under a generation",
        "until only the new ones are known",
    ),
    "chart_upgraded": (
        "`helm upgrade` under a generation; no pod of the fleet restarts",
        "until the new operator is at work",
    ),
    "uninstalled": (
        "fleet, server and chart are removed; nothing is left",
        "until the last pod is gone",
    ),
}


def block(results: Path) -> str:
    """The table between the markers."""
    data: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))
    lines = ["| scenario | seconds | what is timed | tokens lost |", "|---|---|---|---|"]
    for name, (scenario, timed) in SCENARIOS.items():
        if (seconds := data.get(f"{name}_seconds")) is not None:
            lines.append(f"| {scenario} | {seconds} | {timed} | {data[f'{name}_tokens_lost']} |")
    lines += [
        "",
        f"{data['tokens_lost']} of {data['tokens_compared']} tokens were lost. {data['kind'].title()} "
        f"on {data['machine']}, commit `{data['commit']}`, with `{data['command']}`.",
    ]
    return "\n".join(lines)


def refreshed(page: str, results: Path) -> str:
    """The page with its table written anew."""
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    table = f"{block(results)}\n" if results.exists() else ""
    return f"{before}{BEGIN}\n{table}{END}{after}"
