from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from sled_operator.plan import drifted, plan
from sled_operator.resources.service import server_service
from sled_operator.spec import SLEDServer

Server = Callable[..., SLEDServer]


def stored(manifest: dict[str, Any]) -> dict[str, Any]:
    """As the API server gives it back: with more in it."""
    document = copy.deepcopy(manifest)
    document["metadata"] |= {"uid": "x", "resourceVersion": "5"}
    document["spec"]["clusterIP"] = "10.0.0.1"
    return document


def test_what_is_there_needs_no_write(server: Server) -> None:
    manifest = server_service(server())
    assert plan([manifest], [stored(manifest)]).empty


def test_missing_changed_and_drifted_are_told_apart(server: Server) -> None:
    manifest = server_service(server())
    assert plan([manifest], []).apply[0][1] == "missing"
    other = server_service(server(exposure={"port": 7443}))
    assert plan([other], [stored(manifest)]).apply[0][1] == "changed"
    bent = stored(manifest)
    bent["spec"]["ports"][0]["port"] = 1
    assert plan([manifest], [bent]).apply[0][1] == "drifted at spec.ports[0].port"


def test_surplus_is_deleted_unless_it_is_going_already(server: Server) -> None:
    manifest = server_service(server())
    assert len(plan([], [stored(manifest)]).delete) == 1
    going = stored(manifest)
    going["metadata"]["deletionTimestamp"] = "now"
    assert plan([], [going]).empty


@pytest.mark.parametrize(
    ("wanted", "observed", "path"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, None),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1]}}, "a.b"),
        ({"a": [{"x": 1}]}, {"a": [{"x": 2}]}, "a[0].x"),
        ({"a": {}}, {}, None),
        ({"a": []}, {}, None),
        ({"a": ""}, {}, None),
        ({"a": 1}, {}, "a"),
        ({"a": {"b": 1}}, {"a": "text"}, "a"),
    ],
)
def test_drift_is_named_by_path(wanted: Any, observed: Any, path: str | None) -> None:
    assert drifted(wanted, observed) == path
