"""From an EdgeDrafter, its nodes and pods: what each node shall run and what objects that needs.
Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sled_operator import rollout
from sled_operator.assignment.assign import Assigner, Choice, Refusal
from sled_operator.assignment.classes import device_class
from sled_operator.names import ahead_label, node_label, node_value
from sled_operator.resources.base import Manifest, drafter_owner
from sled_operator.resources.controllerrevision import controller_revision
from sled_operator.resources.daemonset import ahead_daemonset, drafter_daemonset, model_of
from sled_operator.resources.drafter_config import drafter_config
from sled_operator.resources.service import drafter_service
from sled_operator.resources.serviceaccount import service_account
from sled_operator.revision import Snapshot
from sled_operator.spec import EdgeDrafter
from sled_operator.views import Fetch, NodeView, PodView


@dataclass(frozen=True, slots=True, order=True)
class Given:
    """What a node's label says."""

    draft: str
    device_class: str
    revision: str


@dataclass(frozen=True, slots=True)
class Fleet:
    """The nodes of one EdgeDrafter as they are."""

    selected: dict[str, NodeView]
    given: dict[str, Given]
    """By node; also of nodes that are selected no longer."""
    ready: frozenset[tuple[str, Given]]
    """Nodes whose drafter of that kind serves."""
    fetches: Mapping[str, PodView] = field(default_factory=dict)
    """By node: the pod that fetches the node's model, now or for where it moves next."""
    ahead: Mapping[str, Given] = field(default_factory=dict)
    """By node: what it fetches before it moves there."""
    fetched_ahead: frozenset[tuple[str, Given]] = frozenset()
    """Nodes that have it."""

    @property
    def members(self) -> list[str]:
        """Names of the selected nodes, in order."""
        return sorted(self.selected)


def parse_given(value: str) -> Given | None:
    """A label value as the operator writes it; None for anything else."""
    parts = value.split(".")
    return Given(*parts) if len(parts) == 3 and all(parts) else None


def fleet(drafter: EdgeDrafter, nodes: Iterable[NodeView], pods: Iterable[PodView]) -> Fleet:
    """Sort out what belongs to this EdgeDrafter. `pods` holds its own pods only."""
    key = (drafter.metadata.namespace, drafter.metadata.name)
    label, next_label = node_label(*key), ahead_label(*key)
    wanted = drafter.spec.node_selector.items()
    selected: dict[str, NodeView] = {}
    given: dict[str, Given] = {}
    ahead: dict[str, Given] = {}
    for node in nodes:
        for found, of in ((node.labels.get(label), given), (node.labels.get(next_label), ahead)):
            if found is not None:
                of[node.facts.name] = parse_given(found) or Given("?", "?", "?")
        if all(node.labels.get(key) == value for key, value in wanted):
            selected[node.facts.name] = node
    ready, fetched = set(), set()
    fetches: dict[str, PodView] = {}
    for pod in pods:
        kind = Given(pod.draft, pod.device_class, pod.revision)
        if pod.terminating:
            continue
        if pod.ahead:
            if pod.fetch is Fetch.DONE:
                fetched.add((pod.node, kind))
            if ahead.get(pod.node) == kind:
                fetches[pod.node] = pod
            continue
        if pod.ready:
            ready.add((pod.node, kind))
        if pod.fetch is not Fetch.NONE and given.get(pod.node) == kind:
            fetches.setdefault(pod.node, pod)
    return Fleet(selected, given, frozenset(ready), fetches, ahead, frozenset(fetched))


@dataclass(frozen=True, slots=True)
class Placement:
    """What each node shall carry, and where the rollout stands."""

    values: dict[str, Given | None]
    """Wanted label by node, for nodes whose label must change; None removes it."""
    wanted: dict[str, Given]
    """What each assigned node has after the change."""
    refused: dict[str, Refusal]
    progress: rollout.Progress
    look_again_seconds: float | None
    ahead: Mapping[str, Given] = field(default_factory=dict)
    """By node: what it fetches first; `wanted` then holds what it has."""
    ahead_values: Mapping[str, Given | None] = field(default_factory=dict)
    """Wanted label by node, as `values`, for what is fetched first."""


def place(
    drafter: EdgeDrafter,
    target: Snapshot,
    stable: Snapshot,
    nodes: Fleet,
    assigners: Mapping[str, Assigner],
    progress: rollout.Progress,
    quality: rollout.Quality,
    now: datetime,
) -> Placement:
    """Assign nodes, move the rollout on, and say which labels change.

    Args:
        drafter: the resource.
        target: revision of its spec.
        stable: revision to go back to.
        nodes: the fleet as it is.
        assigners: one for each revision name in use.
        progress: of the look before.
        quality: of the target.
        now: an aware time.
    """
    facts = [nodes.selected[name].facts for name in nodes.members]
    current = {n: Choice(g.draft, g.device_class) for n, g in nodes.given.items()}
    chosen, refused = assigners[target.name].assign(facts, current)
    by_revision = {target.name: chosen}
    if stable.name not in by_revision:
        by_revision[stable.name] = assigners[stable.name].assign(facts, current)[0]
    members = [
        _member(name, nodes)
        for name in nodes.members
        if any(name in choices for choices in by_revision.values())
    ]
    step = rollout.step(drafter.spec.rollout, progress, target.name, members, quality, now)
    wanted = {
        name: given
        for name in nodes.members
        if (given := _wanted(name, nodes, step.revisions, by_revision)) is not None
    }
    return Placement(
        changes(nodes.given, wanted), wanted, refused, step.progress, step.look_again_seconds
    )


def _member(name: str, nodes: Fleet) -> rollout.Member:
    view = nodes.selected[name]
    given = nodes.given.get(name)
    ready = given is not None and (name, given) in nodes.ready
    return rollout.Member(name, view.labels, view.online, given.revision if given else "", ready)


def _wanted(
    name: str,
    nodes: Fleet,
    revisions: Mapping[str, str],
    choices: Mapping[str, Mapping[str, Choice]],
) -> Given | None:
    """An online node gets what its revision's catalogue chooses; an offline one keeps its label."""
    if not nodes.selected[name].online:
        return nodes.given.get(name)
    revision = revisions.get(name)
    choice = choices.get(revision or "", {}).get(name)
    if revision is None or choice is None:
        return None
    return Given(choice.draft, choice.device_class, revision)


def changes(before: Mapping[str, Given], wanted: Mapping[str, Given]) -> dict[str, Given | None]:
    """What differs, by node; None where nothing is wanted."""
    return {
        name: wanted.get(name)
        for name in sorted(before.keys() | wanted.keys())
        if before.get(name) != wanted.get(name)
    }


def label_value(given: Given | None) -> str | None:
    """What is written on the node."""
    return None if given is None else node_value(given.draft, given.device_class, given.revision)


def objects(
    drafter: EdgeDrafter,
    in_use: Iterable[Given],
    snapshots: Mapping[str, Snapshot],
    ahead: Iterable[Given] = (),
) -> list[Manifest]:
    """Everything that the EdgeDrafter owns: per revision a snapshot and a ConfigMap, a DaemonSet
    for each draft and class that a node has or shall have, and one for each that is fetched
    first."""
    manifests = [service_account(drafter_owner(drafter)), drafter_service(drafter)]
    used: dict[str, list[Given]] = {name: [] for name in snapshots}
    for given in sorted(set(in_use)):
        if given.revision in snapshots:
            used[given.revision].append(given)
    for name, snapshot in sorted(snapshots.items()):
        manifests.append(controller_revision(drafter, snapshot))
        manifests.extend(_of_revision(drafter, snapshot, used[name]))
    for given in sorted(set(ahead)):
        if given.revision in snapshots:
            manifests.extend(_of_ahead(drafter, snapshots[given.revision], given))
    return manifests


def _of_ahead(drafter: EdgeDrafter, snapshot: Snapshot, given: Given) -> list[Manifest]:
    return [
        ahead_daemonset(drafter, snapshot, draft, device_class(given.device_class))
        for draft in snapshot.spec.drafts
        if draft.name == given.draft
    ]


def _of_revision(drafter: EdgeDrafter, snapshot: Snapshot, used: Sequence[Given]) -> list[Manifest]:
    drafts = {draft.name: draft for draft in snapshot.spec.drafts}
    pairs = [(drafts[g.draft], device_class(g.device_class)) for g in used if g.draft in drafts]
    if not pairs:
        return []
    configs = []
    for draft, kind in pairs:
        model = model_of(snapshot, draft, kind)
        configs.append((draft, kind, model.path if model else None))
    sets = [drafter_daemonset(drafter, snapshot, draft, kind) for draft, kind in pairs]
    return [drafter_config(drafter, snapshot, configs), *sets]
