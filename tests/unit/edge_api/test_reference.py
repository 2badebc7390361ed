"""The reference page names everything that a client can meet."""

from __future__ import annotations

from pathlib import Path

from sled_edge.api.door import KNOWN_ROUTES
from sled_edge.api.openai.requests import CHAT_UNSUPPORTED, COMPLETION_UNSUPPORTED
from sled_edge.api.refusal import Reason
from sled_edge.api.tgi.requests import PARAMETERS_UNSUPPORTED
from sled_edge.metrics import EdgeMetrics

PAGE = (Path(__file__).parents[3] / "docs/reference/http-api.md").read_text(encoding="utf-8")


def test_every_route_is_documented() -> None:
    assert [route for route in KNOWN_ROUTES if f"`{route}`" not in PAGE] == []


def test_every_reason_is_documented() -> None:
    assert [reason.value for reason in Reason if f"`{reason.value}`" not in PAGE] == []


def test_every_metric_is_documented() -> None:
    names = {family.name for family in EdgeMetrics().registry.collect()}
    own = {name.removeprefix("sled_edge_") for name in names if name.startswith("sled_edge_")}
    assert own
    assert [name for name in own if f"`{name}" not in PAGE] == []


def test_every_refused_field_is_documented() -> None:
    fields = CHAT_UNSUPPORTED.names | COMPLETION_UNSUPPORTED.names | PARAMETERS_UNSUPPORTED.names
    assert [name for name in fields if f"`{name}`" not in PAGE] == []
