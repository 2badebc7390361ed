"""vLLM on this machine's processor. `make engines` makes the environment.

vLLM can be loaded once in a process, so each folder here is a pytest run of its own, with one model
that all its tests share.
"""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What vLLM and its dependencies warn about is not ours to turn into errors."""
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore"))
