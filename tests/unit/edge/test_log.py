from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from sled_edge.log import configure_logging, fields


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    output = io.StringIO()
    configure_logging("info", output)
    yield output
    root.handlers[:] = handlers
    root.setLevel(level)


def test_one_json_object_a_line(stream: io.StringIO) -> None:
    log = logging.getLogger("sled_edge.test")
    log.info("two\nlines", extra=fields(reason="queue_full", seconds=1.5))
    log.debug("too fine")
    try:
        raise ValueError("inside")
    except ValueError:
        log.exception("failed")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(lines) == 2
    assert lines[0]["message"] == "two\nlines"
    assert (lines[0]["level"], lines[0]["reason"], lines[0]["seconds"]) == (
        "info",
        "queue_full",
        1.5,
    )
    assert lines[0]["time"].endswith("Z")
    assert "ValueError: inside" in lines[1]["exception"]
