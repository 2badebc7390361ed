"""Devices come and change: a new node joins, a label changes what a node drafts with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sled_testkit.e2e_record import Record, Stopwatch
from sled_testkit.e2e_site import Site
from sled_testkit.e2e_specs import DRAFTER, PROMPT

CLASS = "sled.dev/device-class"


def test_a_new_node_joins(site: Site, record: Record) -> None:
    watch = Stopwatch()
    site.add_nodes(("orin",))
    site.wait_fleet({"pi4": "small", "pi5": "large", "orin": "large"})
    reply = site.ask("orin", PROMPT)
    reply.wait_tokens(1)
    record.passed("new_node_joins", watch.seconds())
    site.assert_own(reply.finish())


@pytest.fixture
def relabelled(site: Site) -> Iterator[str]:
    """The name of a node whose class somebody gets wrong, and corrects afterwards."""
    yield "pi5"
    site.label("pi5", CLASS, "pi5")
    site.wait_fleet({"pi4": "small", "pi5": "large", "orin": "large"})


def test_a_label_changes_what_a_node_drafts_with(
    site: Site, record: Record, relabelled: str
) -> None:
    running = site.ask(relabelled, PROMPT)
    running.wait_tokens(4)
    watch = Stopwatch()
    site.label(relabelled, CLASS, "pi4")
    site.wait_fleet({"pi4": "small", "pi5": "small", "orin": "large"})
    record.passed("label_changes_assignment", watch.seconds())
    site.assert_own(running.finish())
    site.assert_own(site.ask(relabelled, PROMPT).finish())
    assert site.wait_ready("EdgeDrafter", DRAFTER)["status"]["nodes"]["ready"] == 3
