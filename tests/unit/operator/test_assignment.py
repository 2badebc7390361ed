from __future__ import annotations

from typing import Any

import pytest

from sled_operator.assignment.assign import Assigner, Choice, Refusal, Unfit
from sled_operator.assignment.classes import NodeFacts, classify, device_class
from sled_operator.assignment.predict import Measured, predict
from sled_operator.spec import EdgeDrafterSpec
from sled_operator.spec.drafts import Draft


def facts(name: str = "n1", memory: int = 8000, **labels: str) -> NodeFacts:
    return NodeFacts(name, {"sled.dev/device-class": "pi5"} | labels, "arm64", 4, memory)


def draft(name: str, memory: int, speed: int, acceptance: int, **fields: Any) -> dict[str, Any]:
    profile = {
        "memoryMiB": memory,
        "acceptancePermille": acceptance,
        "speeds": ({"deviceClass": "default", "tokensPerSecondMilli": speed * 1000},),
    }
    return {"name": name, "source": f"hf://o/r/{name}.gguf", "profile": profile, **fields}


SMALL = draft("small", 300, 60, 600)
LARGE = draft("large", 3000, 40, 850)


def spec(*drafts: dict[str, Any], **fields: Any) -> EdgeDrafterSpec:
    return EdgeDrafterSpec.model_validate(
        {"server": {"name": "s"}, "nodeSelector": {"a": "b"}, "drafts": drafts} | fields
    )


def choose(
    settings: EdgeDrafterSpec, node: NodeFacts, current: Choice | None = None, **measured: Any
) -> Choice | Refusal:
    given = {node.name: current} if current else {}
    chosen, refused = Assigner(settings, measured.get("measured", {})).assign([node], given)
    return chosen.get(node.name) or refused[node.name]


@pytest.mark.parametrize(
    ("labels", "architecture", "memory", "name"),
    [
        ({"sled.dev/device-class": "kiosk"}, "arm64", 8000, "kiosk"),
        ({"sled.dev/device-class": "Not Valid"}, "amd64", 8000, "x86"),
        ({"nvidia.com/gpu.product": "Orin-Nano-8GB"}, "arm64", 8000, "orin-nano"),
        ({"nvidia.com/gpu.product": "NVIDIA-L4"}, "amd64", 64000, "x86-cuda"),
        (
            {"feature.node.kubernetes.io/system-dmi.product-name": "Raspberry Pi 5"},
            "arm64",
            4000,
            "pi5",
        ),
        ({}, "arm64", 4000, "arm64"),
        ({}, "amd64", 4000, "x86"),
    ],
)
def test_device_classes(labels: dict[str, str], architecture: str, memory: int, name: str) -> None:
    assert classify(NodeFacts("n", labels, architecture, 4, memory)).name == name


def test_the_class_decides_the_runtime() -> None:
    assert device_class("pi5").variant == "cpu"
    assert device_class("orin-nano").variant == "l4t"
    assert device_class("x86-cuda").variant == "cuda"
    assert device_class("kiosk-l4t").variant == "l4t"
    assert device_class("pi5").threads == 3


def test_the_best_draft_that_fits_is_chosen() -> None:
    settings = spec(SMALL, LARGE)
    assert choose(settings, facts(memory=8000)) == Choice("large", "pi5")
    assert choose(settings, facts(memory=2000)) == Choice("small", "pi5")


def test_what_fits_nothing_is_told_why() -> None:
    def reason(settings: EdgeDrafterSpec, node: NodeFacts) -> Unfit:
        answer = choose(settings, node)
        assert isinstance(answer, Refusal)
        return answer.reason

    assert reason(spec(SMALL), facts(memory=500)) is Unfit.MEMORY
    amd = draft("a", 10, 10, 500, architectures=("amd64",))
    assert reason(spec(amd), facts()) is Unfit.ARCHITECTURE
    jetson = draft("a", 10, 10, 500, deviceClasses=("orin",))
    assert reason(spec(jetson), facts()) is Unfit.DEVICE_CLASS


def test_too_many_classes_are_refused() -> None:
    nodes = [facts(f"n{i}", **{"sled.dev/device-class": f"c{i:02d}"}) for i in range(40)]
    chosen, refused = Assigner(spec(SMALL), {}).assign(nodes, {})
    assert len(chosen) == 32
    assert {each.reason for each in refused.values()} == {Unfit.TOO_MANY_CLASSES}


def test_measurements_pull_the_prediction_and_many_pull_it_further() -> None:
    model = Draft.model_validate(SMALL)

    def speed(rounds: int) -> float:
        seen = Measured(rounds, rounds * 4, rounds * 2, rounds * 4 * 100_000)
        key = ("small", "pi5")
        return predict(model, "pi5", 8, 0.02, {key: seen}).draft_tokens_per_second

    assert speed(0) == 60
    assert 60 > speed(100) > speed(10_000) > 10
    assert speed(10_000_000) == pytest.approx(10, rel=0.01)


def test_a_node_keeps_what_it_has_until_something_is_clearly_better() -> None:
    a, b = draft("a", 300, 40, 700), draft("b", 300, 42, 700)
    settings = spec(a, b)
    assert choose(settings, facts()) == Choice("b", "pi5")
    assert choose(settings, facts(), Choice("a", "pi5")) == Choice("a", "pi5")
    slow = {("a", "pi5"): Measured(100_000, 400_000, 100_000, 400_000 * 200_000)}
    moved = choose(settings, facts(), Choice("a", "pi5"), measured=slow)
    assert moved == Choice("b", "pi5")


def test_the_objective_decides() -> None:
    thrifty = draft("thrifty", 300, 20, 700)
    thrifty["profile"]["speeds"][0]["millijoulesPerToken"] = 10
    hungry = draft("hungry", 300, 80, 700)
    hungry["profile"]["speeds"][0]["millijoulesPerToken"] = 500
    assert choose(spec(thrifty, hungry), facts()) == Choice("hungry", "pi5")
    energy = spec(thrifty, hungry, objective="Energy")
    assert choose(energy, facts()) == Choice("thrifty", "pi5")


def test_without_drafting_every_draft_is_worth_the_same() -> None:
    settings = spec(SMALL, LARGE, drafting={"maxTokens": 0})
    assert isinstance(choose(settings, facts()), Choice)
