"""The queue grows and falls: a second verifier comes, running devices spread over both, it drains and goes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sled_testkit.cluster_api import Object
from sled_testkit.e2e_record import Record, Stopwatch
from sled_testkit.e2e_site import Site, wait_until
from sled_testkit.e2e_specs import DEVICES, PROMPT, SERVER, server_spec
from sled_testkit.e2e_verifiers import Load, metrics, serving, tokens

LONG = 160
EACH = 3
"""Texts at once on a device; more than the verifier has slots."""
AUTOSCALING: Object = {
    "mode": "Builtin",
    "minReplicas": 1,
    "maxReplicas": 2,
    "targetQueueDepth": 2,
    "scaleDown": {"stabilizationSeconds": 10, "periodSeconds": 10},
}
SMALL_ENGINE: Object = {**server_spec()["engine"], "threads": 1, "slots": 4}


@pytest.fixture
def small(site: Site) -> Iterator[None]:
    """A verifier that a few texts keep busy, and that may have a second one beside it."""
    site.apply("SLEDServer", SERVER, server_spec(engine=SMALL_ENGINE, autoscaling=AUTOSCALING))
    site.wait_ready("SLEDServer", SERVER)
    site.wait_devices(DEVICES)
    yield
    site.apply("SLEDServer", SERVER, server_spec())
    site.wait_ready("SLEDServer", SERVER)
    site.wait_devices(DEVICES)


@pytest.mark.usefixtures("small")
def test_verifiers_follow_the_queue_and_devices_spread_over_them(
    site: Site, record: Record
) -> None:
    assert len(site.verifiers()) == 1
    watch = Stopwatch()
    load = Load(site, DEVICES, PROMPT, LONG, EACH)

    def two_serve() -> bool:
        load.keep_up()
        return site.ready_verifiers() == 2

    wait_until(two_serve)
    record.passed("scaled_up", watch.seconds())
    assert {pod["spec"]["nodeName"] for pod in site.verifiers()} == {"gpu-1", "gpu-2"}
    watch, before = Stopwatch(), tokens(site)

    def spread() -> bool:
        load.keep_up()
        return serving(site, before) == 2

    wait_until(spread)
    record.passed("devices_spread", watch.seconds())

    leaving = max(site.verifiers(), key=lambda pod: str(pod["metadata"]["name"]))
    assert metrics(site, leaving)["sled_connected_devices"] >= 1, "nobody would have to move"
    watch = Stopwatch()
    load.shrink(each=1)

    def one_left() -> bool:
        load.keep_up()
        return len(site.all_verifiers()) == 1

    wait_until(one_left)
    record.passed("scaled_down", watch.seconds())
    for text in load.finish():
        site.assert_own(text)
    (pod,) = site.verifiers()
    assert metrics(site, pod)["sled_connected_devices"] == len(DEVICES)
