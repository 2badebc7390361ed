"""Gives each node the draft model that serves the objective best, or says why it gets none. Pure.

A node keeps what it has unless something else promises clearly more (`HYSTERESIS`): measurements
waver, and moving a node costs it a model load.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sled_operator.assignment.classes import NodeFacts, classify
from sled_operator.assignment.predict import Measured, Prediction, predict
from sled_operator.spec import EdgeDrafterSpec
from sled_operator.spec.drafts import Draft

HYSTERESIS = 1.15
MAX_CLASSES = 32
OVERHEAD_MIB = 96
"""What a drafter needs besides its model: the interpreter and the server."""


class Unfit(enum.StrEnum):
    """Why a node gets no draft model."""

    ARCHITECTURE = "ArchitectureUnsupported"
    """No draft runs on the node's architecture."""
    DEVICE_CLASS = "DeviceClassUnsupported"
    """No draft is meant for the node's device class."""
    MEMORY = "MemoryTooSmall"
    """Every draft that would run needs more memory than the node may give."""
    TOO_MANY_CLASSES = "TooManyDeviceClasses"
    """More device classes than an EdgeDrafter serves."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a node is given."""

    draft: str
    device_class: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why it is given nothing."""

    reason: Unfit
    message: str


@dataclass(slots=True)
class Assigner:
    """Assigns nodes of one EdgeDrafter; answers are shared among nodes that look alike."""

    spec: EdgeDrafterSpec
    measured: Mapping[tuple[str, str], Measured]

    def assign(
        self, nodes: Sequence[NodeFacts], current: Mapping[str, Choice]
    ) -> tuple[dict[str, Choice], dict[str, Refusal]]:
        """Choices and refusals by node name.

        Args:
            nodes: the selected nodes.
            current: what nodes run now.
        """
        classes = sorted({classify(facts).name for facts in nodes})
        served = set(classes[:MAX_CLASSES])
        alike: dict[tuple[str, str, int, Choice | None], Choice | Refusal] = {}
        chosen: dict[str, Choice] = {}
        refused: dict[str, Refusal] = {}
        for facts in nodes:
            name = classify(facts).name
            key = (name, facts.architecture, facts.memory_mib, current.get(facts.name))
            answer = alike.get(key)
            if answer is None:
                answer = alike[key] = self._one(facts, name, served, current.get(facts.name))
            if isinstance(answer, Choice):
                chosen[facts.name] = answer
            else:
                refused[facts.name] = answer
        return chosen, refused

    def _one(
        self, facts: NodeFacts, name: str, served: set[str], current: Choice | None
    ) -> Choice | Refusal:
        if name not in served:
            text = f"device class {name} is one of more than {MAX_CLASSES}"
            return Refusal(Unfit.TOO_MANY_CLASSES, text)
        fitting = self._fitting(facts, name)
        if isinstance(fitting, Refusal):
            return fitting
        scores = {draft.name: self.score(draft, name) for draft in fitting}
        best = max(sorted(scores), key=lambda draft: scores[draft])
        kept = current is not None and current.device_class == name and current.draft in scores
        if current is not None and kept and scores[best] <= _better(scores[current.draft]):
            return current
        return Choice(best, name)

    def _fitting(self, facts: NodeFacts, name: str) -> list[Draft] | Refusal:
        runs = [
            draft
            for draft in self.spec.drafts
            if not draft.architectures or facts.architecture in draft.architectures
        ]
        if not runs:
            text = f"no draft runs on {facts.architecture or 'an unknown architecture'}"
            return Refusal(Unfit.ARCHITECTURE, text)
        meant = [d for d in runs if not d.device_classes or name in d.device_classes]
        if not meant:
            return Refusal(Unfit.DEVICE_CLASS, f"no draft is meant for device class {name}")
        room = facts.memory_mib * self.spec.max_memory_percent // 100
        fits = [d for d in meant if d.profile.memory_mib + OVERHEAD_MIB <= room]
        if not fits:
            least = min(d.profile.memory_mib for d in meant) + OVERHEAD_MIB
            text = f"the smallest draft needs {least} MiB and the node may give {room} MiB"
            return Refusal(Unfit.MEMORY, text)
        return fits

    def prediction(self, draft: Draft, device_class: str) -> Prediction:
        """What the draft promises on that class."""
        return predict(
            draft,
            device_class,
            self.spec.drafting.max_tokens,
            self.spec.round_trip_ms / 1000,
            self.measured,
        )

    def score(self, draft: Draft, device_class: str) -> float:
        """Higher is better, for the spec's objective."""
        promised = self.prediction(draft, device_class)
        if self.spec.objective == "Latency":
            return -promised.round_seconds / max(
                1.0, promised.acceptance * promised.draft_length + 1
            )
        if self.spec.objective == "Energy":
            joules = promised.joules_per_output_token
            return -joules if joules is not None else -1e9 + promised.output_tokens_per_second
        return promised.output_tokens_per_second


def _better(score: float) -> float:
    """What a rival must exceed; scores may be negative."""
    return score * HYSTERESIS if score > 0 else score / HYSTERESIS
