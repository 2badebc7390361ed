"""The class that the kit gives a device is the class that the operator knows, on every board that is described."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sled_operator.assignment.classes import NodeFacts, classify
from sled_testkit import join_boards as boards
from sled_testkit.join_boards import Board
from sled_testkit.join_kit import SHELLS, Device

KNOWN = {
    "Pi 4B": (boards.PI_4B, "pi4", "cpu"),
    "Pi 5": (boards.PI_5, "pi5", "cpu"),
    "Compute Module 5": (boards.COMPUTE_MODULE_5, "pi5", "cpu"),
    "Orin Nano": (boards.ORIN_NANO, "orin-nano", "l4t"),
    "Orin Nano on another maker's carrier": (boards.ORIN_NANO_ON_A_CARRIER, "orin-nano", "l4t"),
    "Orin NX": (boards.ORIN_NX, "orin-nx", "l4t"),
    "AGX Orin": (boards.AGX_ORIN, "orin", "l4t"),
    "x86": (boards.X86, "x86", "cpu"),
    "x86 with a GPU": (boards.X86_WITH_GPU, "x86-cuda", "cuda"),
}


def given_labels(device: Device) -> dict[str, str]:
    config = yaml.safe_load(device.read("/etc/rancher/k3s/config.yaml.d/50-sled.yaml"))
    return dict(label.split("=", 1) for label in config["node-label+"])


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("board", "name", "runtime"), KNOWN.values(), ids=KNOWN)
def test_the_operator_reads_the_class_that_the_kit_wrote(
    board: Board, name: str, runtime: str, shell: str, tmp_path: Path
) -> None:
    device = Device(board, tmp_path, shell)
    done = device.join()
    assert done.code == 0, done.text
    labels = given_labels(device)
    assert labels["sled.dev/drafter"] == "true"
    assert (labels["sled.dev/device-class"], labels["sled.dev/runtime"]) == (name, runtime)
    architecture = {"aarch64": "arm64", "x86_64": "amd64"}[board.machine]
    seen = classify(NodeFacts("device", labels, architecture, 4, 4096))
    assert (seen.name, seen.variant) == (name, runtime)


def test_the_device_tree_is_found_in_sysfs_too(tmp_path: Path) -> None:
    device = Device(Board("aarch64"), tmp_path)
    boards.PI_5.write(device.root, tree="sys/firmware/devicetree/base")
    assert "class=pi5" in device.run("--detect").out


def test_detect_says_what_a_join_would_label(tmp_path: Path) -> None:
    device = Device(boards.ORIN_NANO, tmp_path)
    before = device.files()
    lines = device.run("--detect").out.splitlines()
    assert "class=orin-nano" in lines
    assert "label=sled.dev/l4t=36.4.0" in lines
    board = "NVIDIA-Jetson-Orin-Nano-Engineering-Reference-Developer-Kit-Sup"
    assert f"label=sled.dev/board={board}" in lines
    assert device.files() == before


@pytest.mark.parametrize("board", [boards.ROCK_5B, boards.PI_3, Board("aarch64")])
def test_an_unknown_device_is_named_and_can_be_given_a_class(board: Board, tmp_path: Path) -> None:
    device = Device(board, tmp_path)
    done = device.join()
    assert done.code == 1
    assert "this device is unknown" in done.err
    assert "--device-class NAME" in done.err
    assert not (device.root / "etc/rancher").exists()
    assert device.join("--device-class", "rock5b").code == 0
    assert given_labels(device)["sled.dev/device-class"] == "rock5b"


def test_a_32_bit_system_is_refused(tmp_path: Path) -> None:
    device = Device(Board("armv7l", boards.PI_4B.files), tmp_path)
    done = device.join()
    assert (done.code, "64-bit system" in done.err) == (1, True)


@pytest.mark.parametrize(
    ("board", "sentence"),
    [
        (boards.X86_WITH_GPU_WITHOUT_TOOLKIT, "nvidia-container-runtime is not installed"),
        (boards.ORIN_NANO_OLD_TOOLKIT, "toolkit is 1.9.0-1; integrated GPUs need 1.11.0"),
    ],
)
def test_a_gpu_needs_its_container_runtime(board: Board, sentence: str, tmp_path: Path) -> None:
    done = Device(board, tmp_path).join()
    assert done.code == 1
    assert sentence in done.err


@pytest.mark.parametrize(
    ("board", "name"),
    [(boards.X86_WITH_GPU_WITHOUT_TOOLKIT, "x86"), (boards.ORIN_NANO, "orin-nano-cpu")],
)
def test_without_gpu_drafts_on_the_processor(board: Board, name: str, tmp_path: Path) -> None:
    device = Device(board, tmp_path)
    assert device.join("--without-gpu").code == 0
    labels = given_labels(device)
    assert labels["sled.dev/device-class"] == name
    assert classify(NodeFacts("device", labels, "arm64", 6, 8192)).variant == "cpu"
    assert "default-runtime" not in device.read("/etc/rancher/k3s/config.yaml.d/50-sled.yaml")
