"""How far nodes are with their draft model: read from pods, told in the status."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sled_operator import drafter_status
from sled_operator.conditions import Reason
from sled_operator.drafter_plan import Fleet, fleet
from sled_operator.names import node_label
from sled_operator.spec import EdgeDrafter
from sled_operator.views import Fetch, node_view, pod_view

LABEL = node_label("fleet", "pis")


def pod(node: str, state: dict[str, Any] | None, *, revision: str = "r1") -> dict[str, Any]:
    labels = {
        "sled.dev/drafter": "pis",
        "sled.dev/draft": "tiny",
        "sled.dev/device-class": "pi5",
        "sled.dev/revision": revision,
    }
    fetch = {"name": "fetch-model", **(state or {})}
    return {
        "metadata": {"name": f"pis-{node}-{revision}", "namespace": "fleet", "labels": labels},
        "spec": {"nodeName": node, "initContainers": [{"name": "fetch-model"}]},
        "status": {"initContainerStatuses": [fetch]} if state is not None else {},
    }


def ended(code: int, **fields: Any) -> dict[str, Any]:
    return {"terminated": {"exitCode": code, **fields}}


SAID = "s3://b/k: there is no such file or revision (HTTP 404)"
STATES = [
    (None, Fetch.WAITING, ""),
    ({"state": {"waiting": {"reason": "ImagePullBackOff"}}}, Fetch.WAITING, "ImagePullBackOff"),
    ({"state": {"running": {}}}, Fetch.FETCHING, ""),
    (
        {"state": {"running": {}}, "lastState": ended(1, reason="Error")},
        Fetch.FETCHING,
        "tried before: Error",
    ),
    ({"state": ended(1, message=SAID, reason="Error")}, Fetch.FAILED, SAID),
    (
        {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended(1, message=SAID)},
        Fetch.FAILED,
        SAID,
    ),
    ({"state": ended(0, reason="Completed")}, Fetch.DONE, ""),
]


@pytest.mark.parametrize(("state", "fetch", "message"), STATES)
def test_a_pod_says_how_far_it_is(state: dict[str, Any] | None, fetch: Fetch, message: str) -> None:
    view = pod_view(pod("pi-1", state))
    assert (view.fetch, view.fetch_message) == (fetch, message)


def test_a_pod_without_the_init_container_fetches_nothing() -> None:
    document = pod("pi-1", None)
    del document["spec"]["initContainers"]
    assert pod_view(document).fetch is Fetch.NONE


def seen(drafter: EdgeDrafter, pods: list[dict[str, Any]]) -> Fleet:
    labels = {"sled.dev/device": "true", LABEL: "tiny.pi5.r1"}
    nodes = [
        node_view({"metadata": {"name": f"pi-{index}", "labels": labels}}) for index in range(60)
    ]
    return fleet(drafter, nodes, [pod_view(each) for each in pods])


def test_the_status_counts_and_lists_failed_nodes_first(
    drafter: Callable[..., EdgeDrafter],
) -> None:
    pods = [pod(f"pi-{index}", {"state": {"running": {}}}) for index in range(58)]
    pods += [pod("pi-58", {"state": ended(1, message=SAID)}), pod("pi-59", {"state": ended(0)})]
    pods.append(pod("pi-59", {"state": ended(1)}, revision="r0"))  # on its way out
    nodes = seen(drafter(), pods)
    assert drafter_status.models(nodes) == {
        "fetched": 1,
        "fetching": 58,
        "waiting": 0,
        "failed": 1,
    }
    listed = drafter_status.without_model(nodes)
    assert len(listed) == drafter_status.MAX_LISTED
    assert listed[0] == {"name": "pi-58", "draft": "tiny", "state": "Failed", "message": SAID}
    problem = drafter_status.fetch_problem(nodes.fetches.values())
    assert problem is not None
    assert problem.reason is Reason.MODEL_NOT_FETCHED
    assert SAID in problem.message


def test_a_fleet_that_fetches_nothing_has_nothing_to_tell(
    drafter: Callable[..., EdgeDrafter],
) -> None:
    nodes = seen(drafter(), [])
    assert drafter_status.models(nodes) is None
    assert drafter_status.fetch_problem(nodes.fetches.values()) is None
