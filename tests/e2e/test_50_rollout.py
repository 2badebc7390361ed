"""A change of draft models goes to the fleet in waves; a bad one is caught by what the target accepts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sled_testkit.cluster_api import Object
from sled_testkit.e2e_record import Record, Stopwatch
from sled_testkit.e2e_site import Site, node_of, wait_until
from sled_testkit.e2e_specs import (
    DEVICES,
    DRAFTER,
    LARGE,
    PROMPT,
    RESOURCES,
    SMALL,
    draft,
    drafter_spec,
)
from sled_testkit.e2e_verifiers import Load

TOKENS = 24
"""Few enough to be written while a device that changes its draft model finishes what it has."""
SPOILED = "spoiled"
GATES: Object = {"minReadyPercent": 100, "minAcceptancePermille": 300, "timeoutSeconds": 90}
WAVES: Object = {
    "waves": [
        {
            "name": "canary",
            "selector": {"sled.dev/device-class": "pi4"},
            "soakSeconds": 5,
            "gates": GATES,
        }
    ]
}


def spec(model: str, **more: Any) -> Object:
    """The fleet with this model as the smaller draft, rolled out to one device first."""
    larger = draft("large", LARGE, 3_000, 900, ["pi5", "orin-nano"])
    return drafter_spec(drafts=[draft("small", model, 200, 500), larger], rollout=WAVES, **more)


@pytest.fixture
def as_before(site: Site) -> Iterator[None]:
    """The fleet as all other scenarios know it."""
    yield
    site.apply("EdgeDrafter", DRAFTER, drafter_spec())
    site.wait_ready("EdgeDrafter", DRAFTER)


def rollout(site: Site) -> Object:
    found = site.api.get(f"{RESOURCES}/edgedrafters/{DRAFTER}")
    return dict(found["status"]["rollout"])


def revisions(site: Site) -> dict[str, str]:
    """By device, the revision of the pod there; a pod that has no node yet counts for none."""
    return {
        node_of(pod): pod["metadata"]["labels"]["sled.dev/revision"]
        for pod in site.drafters()
        if node_of(pod)
    }


@pytest.mark.usefixtures("as_before")
def test_a_bad_draft_model_is_taken_back_and_a_good_one_goes_through(
    site: Site, record: Record
) -> None:
    site.shelf.spoil(SMALL, SPOILED)
    good = rollout(site)["stableRevision"]
    load = Load(site, DEVICES, PROMPT, TOKENS, each=1, may_be_refused=True)
    seen: dict[str, set[str]] = {device: set() for device in DEVICES}

    def reached(state: str) -> bool:
        load.keep_up()
        for device, revision in revisions(site).items():
            seen[device].add(revision)
        return str(rollout(site)["state"]) == state

    watch = Stopwatch()
    site.apply("EdgeDrafter", DRAFTER, spec(SPOILED))
    wait_until(lambda: reached("RolledBack"))
    record.passed("bad_model_rolled_back", watch.seconds())
    told = rollout(site)
    assert told["stableRevision"] == good
    assert told["message"].startswith("wave canary failed: acceptance is ")
    assert "not known" not in told["message"]
    wait_until(lambda: reached("RolledBack") and set(revisions(site).values()) == {good})
    assert seen == {"pi4": {good, told["targetRevision"]}, "pi5": {good}, "orin": {good}}

    watch = Stopwatch()
    site.apply("EdgeDrafter", DRAFTER, spec(SMALL, sequences=3))
    wait_until(lambda: reached("Complete"))
    site.wait_ready("EdgeDrafter", DRAFTER)
    record.passed("good_change_rolled_out", watch.seconds())
    for text in load.finish():
        site.assert_own(text)
