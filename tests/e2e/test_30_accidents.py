"""Accidents under a generation: the text stays the target's own, and what was away comes back by itself."""

from __future__ import annotations

import os
import time

from sled_testkit.e2e_record import Record, Stopwatch
from sled_testkit.e2e_site import Site, wait_until
from sled_testkit.e2e_specs import DRAFTER, PROMPT, SYSTEM, drafter_spec

OUTAGE_SECONDS = float(os.environ.get("SLED_E2E_OUTAGE_SECONDS", "15"))
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
    reply = site.ask("pi4", PROMPT, LONG)
    reply.wait_tokens(4)
    site.cluster.plane.stop_apiserver()
    try:
        time.sleep(OUTAGE_SECONDS)
        site.assert_own(reply.finish())
        site.assert_own(site.ask("pi5", PROMPT).finish())
    finally:
        watch = Stopwatch()
        site.cluster.plane.start_apiserver()
    site.cluster.wait_ready(site.cluster.machines)
    site.apply("EdgeDrafter", DRAFTER, drafter_spec(sequences=4))
    site.wait_ready("EdgeDrafter", DRAFTER)
    record.passed("api_server_away", watch.seconds())
    assert site.pod_identities()["verifier"] == verifiers, "the verifier was restarted"
    site.assert_own(site.ask("pi4", PROMPT).finish())
