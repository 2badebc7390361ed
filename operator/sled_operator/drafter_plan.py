"""From an EdgeDrafter, its nodes and pods: what each node shall run and what objects that needs.
Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sled_operator import rollout
from sled_operator.assignment.assign import Assigner, Choice, Refusal
from sled_operator.assignment.classes import device_class
from sled_operator.names import node_label, node_value
from sled_operator.resources.base import Manifest, drafter_owner
from sled_operator.resources.controllerrevision import controller_revision
from sled_operator.resources.daemonset import drafter_daemonset, model_of
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
    """By node: the drafter that its label names, where that one fetches its model by itself."""

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
    label = node_label(drafter.metadata.namespace, drafter.metadata.name)
    wanted = drafter.spec.node_selector.items()
    selected: dict[str, NodeView] = {}
    given: dict[str, Given] = {}
    for node in nodes:
        value = node.labels.get(label)
        if value is not None:
            given[node.facts.name] = parse_given(value) or Given("?", "?", "?")
        if all(node.labels.get(key) == value for key, value in wanted):
            selected[node.facts.name] = node
    ready = set()
    fetches: dict[str, PodView] = {}
    for pod in pods:
        kind = Given(pod.draft, pod.device_class, pod.revision)
        if pod.terminating:
            continue
        if pod.ready:
            ready.add((pod.node, kind))
        if pod.fetch is not Fetch.NONE and given.get(pod.node) == kind:
            fetches[pod.node] = pod
    return Fleet(selected, given, frozenset(ready), fetches)


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
        _changes(nodes, wanted), wanted, refused, step.progress, step.look_again_seconds
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


def _changes(nodes: Fleet, wanted: Mapping[str, Given]) -> dict[str, Given | None]:
    changes: dict[str, Given | None] = {}
    for name in sorted(nodes.given.keys() | wanted.keys()):
        if nodes.given.get(name) != wanted.get(name):
            changes[name] = wanted.get(name)
    return changes


def label_value(given: Given | None) -> str | None:
    """What is written on the node."""
    return None if given is None else node_value(given.draft, given.device_class, given.revision)


def objects(
    drafter: EdgeDrafter, in_use: Iterable[Given], snapshots: Mapping[str, Snapshot]
) -> list[Manifest]:
    """Everything that the EdgeDrafter owns: per revision a snapshot and a ConfigMap, and a
    DaemonSet for each draft and class that a node has or shall have."""
    manifests = [service_account(drafter_owner(drafter)), drafter_service(drafter)]
    used: dict[str, list[Given]] = {name: [] for name in snapshots}
    for given in sorted(set(in_use)):
        if given.revision in snapshots:
            used[given.revision].append(given)
    for name, snapshot in sorted(snapshots.items()):
        manifests.append(controller_revision(drafter, snapshot))
        manifests.extend(_of_revision(drafter, snapshot, used[name]))
    return manifests


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
