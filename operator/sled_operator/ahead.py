"""Which nodes stay as they are until the model that they move to is there. Pure.

A node whose drafter serves goes on serving while the next model arrives: a slow link or a wrong
address costs it nothing. Only a cache that outlives the pod can hold such a model, so this is for
cache type HostPath; a node that serves nothing moves at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sled_operator.drafter_plan import Fleet, Given, Placement, changes
from sled_operator.resources.pod import is_fetched
from sled_operator.revision import Snapshot
from sled_operator.spec.drafts import Draft


def hold_back(nodes: Fleet, placement: Placement, snapshots: Mapping[str, Snapshot]) -> Placement:
    """The placement with nodes held back that have to fetch first.

    Args:
        nodes: the fleet as it is.
        placement: where nodes shall go.
        snapshots: every revision that is known, by name.
    """
    wanted, ahead = dict(placement.wanted), {}
    for name, target in placement.wanted.items():
        now = nodes.given.get(name)
        if now is None or now == target or (name, now) not in nodes.ready:
            continue
        if (name, target) in nodes.fetched_ahead or not nodes.selected[name].online:
            continue
        if _must_fetch(now, target, snapshots):
            wanted[name], ahead[name] = now, target
    return replace(
        placement,
        wanted=wanted,
        values=changes(nodes.given, wanted),
        ahead=ahead,
        ahead_values=changes(nodes.ahead, ahead),
    )


def _must_fetch(now: Given, target: Given, snapshots: Mapping[str, Snapshot]) -> bool:
    snapshot = snapshots.get(target.revision)
    if snapshot is None or snapshot.spec.cache.type != "HostPath":
        return False
    new, old = _draft(target, snapshots), _draft(now, snapshots)
    if new is None or new.source is None or not is_fetched(new.source):
        return False
    return old is None or (old.source, old.sha256) != (new.source, new.sha256)


def _draft(given: Given, snapshots: Mapping[str, Snapshot]) -> Draft | None:
    snapshot = snapshots.get(given.revision)
    drafts = snapshot.spec.drafts if snapshot else ()
    return next((draft for draft in drafts if draft.name == given.draft), None)
