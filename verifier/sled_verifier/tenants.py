"""Whose devices are whose: the fleets that share one replica, and what each of them gets. Pure; must
not know frames or streams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True)
class Tenant:
    """Devices whose id matches `devices`, a pattern with * and ?.

    Under load their rounds wait as if their deadlines were `weight` times nearer. `adapter` names
    the LoRA adapter that their target has; empty = the base model.
    """

    devices: str
    weight: float = 1.0
    adapter: str = ""


EVERYBODY = Tenant("*")


def tenant_of(device_id: str, tenants: Sequence[Tenant]) -> Tenant:
    """The first tenant that has this device; `EVERYBODY` when none has."""
    return next((t for t in tenants if fnmatchcase(device_id, t.devices)), EVERYBODY)
