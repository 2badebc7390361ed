"""Whom `sled top` asks: from the state file of `sled up`, or from options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sled_cli.errors import BadInput
from sled_cli.up.state import read_state


@dataclass(frozen=True, slots=True)
class VerifierTarget:
    """A verifier to watch."""

    name: str
    address: str
    token_file: Path | None
    pid: int | None = None
    """Of its process on this machine, while it runs."""


@dataclass(frozen=True, slots=True)
class DeviceTarget:
    """A device to watch."""

    name: str
    draft: str
    url: str
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class Targets:
    """Everything to watch."""

    verifiers: tuple[VerifierTarget, ...]
    devices: tuple[DeviceTarget, ...]


def targets_of_state(folder: Path) -> Targets:
    """What the `sled up` in `folder` runs.

    Raises:
        BadInput: none runs there, or its state file is not what this version writes.
    """
    state = read_state(folder)
    try:
        return Targets(
            tuple(
                VerifierTarget(
                    v["name"],
                    v["address"],
                    Path(v["token_file"]) if v["token_file"] else None,
                    v["pid"],
                )
                for v in state["verifiers"]
            ),
            tuple(
                DeviceTarget(d["name"], d["draft"], d["url"], d["pid"]) for d in state["devices"]
            ),
        )
    except (KeyError, TypeError) as error:
        raise BadInput(f"{folder}: the state file lacks {error}") from error


def targets_of_options(
    verifiers: tuple[str, ...], devices: tuple[str, ...], token_file: Path | None
) -> Targets:
    """Addresses as they were given."""
    return Targets(
        tuple(VerifierTarget(address, address, token_file) for address in verifiers),
        tuple(DeviceTarget(url, "", url.rstrip("/")) for url in devices),
    )
