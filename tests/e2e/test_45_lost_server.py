"""The node of the only verifier loses its power: it comes up elsewhere by itself, and texts go on there."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from sled_testkit.e2e_record import Record
from sled_testkit.e2e_site import Site, node_of
from sled_testkit.e2e_specs import DEVICES, PODS, PROMPT, SERVER, SYSTEM

LONG = 192
FIRST, SECOND = "gpu-1", "gpu-2"


@pytest.fixture
def far_from_the_operator(site: Site) -> Iterator[None]:
    """The verifier on another node than the operator, whose loss is another scenario."""
    (operator,) = site.api.items(f"/api/v1/namespaces/{SYSTEM}/pods")
    assert node_of(operator) == SECOND
    (pod,) = site.verifiers()
    if node_of(pod) != FIRST:
        site.cluster.plane.kubectl("cordon", SECOND)
        site.api.delete(f"{PODS}/{pod['metadata']['name']}")
        site.wait_replaced(pod)
        site.cluster.plane.kubectl("uncordon", SECOND)
    site.wait_devices(DEVICES)
    yield
    site.machine(FIRST).pull_plug()
    site.boot_server(FIRST)


@pytest.mark.usefixtures("far_from_the_operator")
def test_the_node_of_the_verifier_dies_under_generations(site: Site, record: Record) -> None:
    (pod,) = site.verifiers()
    assert node_of(pod) == FIRST
    replies = [site.ask(device, PROMPT, LONG) for device in DEVICES]
    for reply in replies:
        reply.wait_tokens(8)
    died = time.monotonic()
    site.machine(FIRST).pull_plug()
    written = [len(reply.tokens) for reply in replies]
    assert max(written) < LONG, "a text was over before the node died"
    for reply in replies:
        site.assert_own(reply.finish(timeout_seconds=300.0))
    record.passed("server_node_dies", max(reply.pause_after(died) for reply in replies))
    (pod,) = site.verifiers()
    assert node_of(pod) == SECOND
    site.wait_ready("SLEDServer", SERVER)
    site.assert_own(site.ask("pi4", PROMPT).finish())
