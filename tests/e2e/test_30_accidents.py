"""Accidents under a generation: the text stays the target's own, and what was away comes back by itself."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from sled_testkit.e2e_record import OUTAGE, Record, Stopwatch
from sled_testkit.e2e_site import Site, wait_until
from sled_testkit.e2e_specs import DRAFTER, PROMPT, SYSTEM, drafter_spec

OUTAGE_SECONDS = float(os.environ.get(OUTAGE, "30"))
LONG = 96
OPERATOR = f"/apis/apps/v1/namespaces/{SYSTEM}/deployments/sled-operator"


def test_the_verifier_is_killed_under_a_generation(site: Site, record: Record) -> None:
    reply = site.ask("pi4", PROMPT, LONG)
    reply.wait_tokens(8)
    (pod,) = site.verifiers()
    killed = time.monotonic()
    site.kill_container(pod)
    site.assert_own(reply.finish())
    record.passed("verifier_killed", reply.pause_after(killed))
    site.wait_ready("SLEDServer", "target")


def test_the_operator_is_away(site: Site, record: Record) -> None:
    site.api.patch(OPERATOR, {"spec": {"replicas": 0}})
    try:
        wait_until(lambda: not site.api.items(f"/api/v1/namespaces/{SYSTEM}/pods"))
        site.apply("EdgeDrafter", DRAFTER, drafter_spec(sequences=3))
        site.assert_own(site.ask("pi5", PROMPT).finish())
    finally:
        watch = Stopwatch()
        site.api.patch(OPERATOR, {"spec": {"replicas": 1}})
    site.wait_ready("EdgeDrafter", DRAFTER)
    record.passed("operator_away", watch.seconds())
    site.assert_own(site.ask("pi5", PROMPT).finish())


def test_the_api_server_is_away(site: Site, record: Record) -> None:
    verifiers = site.pod_identities()["verifier"]
    before = [pod["metadata"]["uid"] for pod in site.drafters()]
    reply = site.ask("pi4", PROMPT, LONG)
    reply.wait_tokens(4)
    site.cluster.plane.stop_apiserver()
    try:
        time.sleep(OUTAGE_SECONDS / 2)
        site.assert_own(reply.finish())
        site.assert_own(site.ask("pi5", PROMPT).finish())
    finally:
        watch = Stopwatch()
        site.cluster.plane.start_apiserver()
    site.cluster.wait_ready(site.cluster.machines)
    site.apply("EdgeDrafter", DRAFTER, drafter_spec(sequences=4))
    site.wait_seen("EdgeDrafter", DRAFTER)
    record.passed("api_server_away_operator", watch.seconds())
    wait_until(lambda: site.new_drafters(before) == len(before))
    record.passed("api_server_away_controllers", watch.seconds())
    site.wait_ready("EdgeDrafter", DRAFTER)
    record.passed("api_server_away", watch.seconds())
    assert site.pod_identities()["verifier"] == verifiers, "the verifier was restarted"
    site.assert_own(site.ask("pi4", PROMPT).finish())


@pytest.fixture
def islands(site: Site) -> Iterator[None]:
    """Devices that write on alone while they are cut off."""
    site.apply("EdgeDrafter", DRAFTER, drafter_spec(offline={"policy": "DraftOnly"}))
    site.wait_ready("EdgeDrafter", DRAFTER)
    yield
    site.machine("pi5").reconnect()
    site.apply("EdgeDrafter", DRAFTER, drafter_spec())
    site.wait_ready("EdgeDrafter", DRAFTER)


@pytest.mark.usefixtures("islands")
def test_a_device_that_is_cut_off_keeps_serving_and_returns(site: Site, record: Record) -> None:
    pi5 = site.machine("pi5")
    before = site.pod_identities()
    running = site.ask("pi5", PROMPT, LONG)
    running.wait_tokens(8)
    pi5.cut_off()
    cut = time.monotonic()
    alone = site.ask("pi5", PROMPT).finish()
    assert alone.text
    assert not alone.verified
    running.finish()
    own = site.alone.continue_tokens(running.prompt, LONG)
    assert running.tokens[: running.verified_tokens] == own[: running.verified_tokens]
    assert len(running.tokens) == LONG
    while time.monotonic() - cut < OUTAGE_SECONDS:
        reply = site.ask("pi5", PROMPT, 8).finish()
        assert not reply.verified
        assert len(reply.tokens) == 8
        time.sleep(5.0)
    watch = Stopwatch()
    pi5.reconnect()
    wait_until(lambda: site.ask("pi5", PROMPT, 8).finish().verified)
    record.passed("device_cut_off", watch.seconds())
    site.assert_own(site.ask("pi5", PROMPT).finish())
    site.cluster.wait_ready(["pi5"])
    site.wait_ready("EdgeDrafter", DRAFTER)
    assert site.pod_identities() == before, (
        "a pod was replaced although its device only lost its link"
    )
