"""A device for each test; where none can be made the tests are named, and fail with CI=true."""

from __future__ import annotations

from pathlib import Path

import pytest

from sled_testkit import join_container
from sled_testkit.join_container import Container


@pytest.fixture(scope="session")
def reason() -> str | None:
    return join_container.missing()


@pytest.fixture
def device(reason: str | None, tmp_path: Path) -> Container:
    if reason is not None:
        pytest.skip(reason)
    return Container(tmp_path)
