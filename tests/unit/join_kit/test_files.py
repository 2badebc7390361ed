"""What the kit writes and takes back: idempotent, visible beforehand, nothing left, no token shown."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sled_testkit import join_boards as boards
from sled_testkit.join_kit import SERVER, TOKEN, Device

CONFIG = "/etc/rancher/k3s/config.yaml.d/50-sled.yaml"
REGISTRIES = "/etc/rancher/k3s/registries.yaml"
IMAGES = "/var/lib/rancher/k3s/agent/images"


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(boards.PI_4B, tmp_path)


def archives(folder: Path) -> Path:
    images = folder / "images"
    images.mkdir()
    (images / "k3s-airgap-images-arm64.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd")
    (images / "sled-edge.tar").write_bytes(b"image")
    (images / "README.txt").write_text("not an image")
    return images


def everything(folder: Path) -> list[str]:
    ca = folder / "ca.crt"
    ca.write_text("-----BEGIN CERTIFICATE-----\n")
    return [
        *(
            "--node-name",
            "pi-7",
            "--label",
            "site=lab",
            "--label",
            "example.com/row=",
            "--dedicated",
        ),
        *("--taint", "example.com/slow:PreferNoSchedule", "--registry-ca", str(ca)),
        *("--registry-mirror", "https://registry.lan:5000"),
        *("--registry-mirror", "docker.io=https://registry.lan:5000/hub"),
        *("--registry-mirror", "docker.io=https://second.lan"),
        *("--images", str(archives(folder))),
    ]


def test_k3s_gets_server_token_labels_and_taints(device: Device, tmp_path: Path) -> None:
    done = device.join(*everything(tmp_path))
    assert done.code == 0, done.text
    config = yaml.safe_load(device.read(CONFIG))
    assert config["server"] == SERVER
    assert config["node-name"] == "pi-7"
    assert device.read(config["token-file"]).strip() == TOKEN
    assert {"site=lab", "example.com/row=", "sled.dev/device-class=pi4"} <= set(
        config["node-label+"]
    )
    assert config["node-taint+"] == [
        "sled.dev/edge=true:NoSchedule",
        "example.com/slow:PreferNoSchedule",
    ]
    assert device.files()["etc/rancher/k3s/sled-join-token"][0] == 0o600


def test_a_jetson_gets_nvidia_as_its_default_runtime(tmp_path: Path) -> None:
    device = Device(boards.ORIN_NANO, tmp_path)
    assert device.join().code == 0
    assert yaml.safe_load(device.read(CONFIG))["default-runtime"] == "nvidia"


def test_mirrors_become_what_k3s_reads(device: Device, tmp_path: Path) -> None:
    assert device.join(*everything(tmp_path)).code == 0
    registries = yaml.safe_load(device.read(REGISTRIES))
    assert {name: each["endpoint"] for name, each in registries["mirrors"].items()} == {
        "*": ["https://registry.lan:5000"],
        "docker.io": ["https://registry.lan:5000/hub", "https://second.lan"],
    }
    trusted = {name: each["tls"]["ca_file"] for name, each in registries["configs"].items()}
    assert set(trusted) == {"registry.lan:5000", "second.lan"}
    for path in trusted.values():
        assert device.read(path).startswith("-----BEGIN")


def test_image_archives_lie_where_k3s_imports_them(device: Device, tmp_path: Path) -> None:
    assert device.join(*everything(tmp_path)).code == 0
    placed = {path.name for path in (device.root / IMAGES.lstrip("/")).iterdir()}
    assert placed == {"k3s-airgap-images-arm64.tar.zst", "sled-edge.tar"}


def test_a_second_run_changes_nothing(device: Device, tmp_path: Path) -> None:
    arguments = everything(tmp_path)
    assert device.join(*arguments).code == 0
    stamps = {path: path.stat().st_mtime_ns for path in device.root.rglob("*") if path.is_file()}
    again = device.join(*arguments)
    assert again.code == 0
    assert "wrote" not in again.out
    found = {path: path.stat().st_mtime_ns for path in device.root.rglob("*") if path.is_file()}
    assert found == stamps


def test_what_is_no_longer_asked_for_goes(device: Device, tmp_path: Path) -> None:
    assert device.join(*everything(tmp_path)).code == 0
    assert device.join().code == 0
    assert "node-taint" not in device.read(CONFIG)
    assert not (device.root / REGISTRIES.lstrip("/")).exists()


def test_undo_leaves_what_was_there_before(device: Device, tmp_path: Path) -> None:
    before = device.files()
    assert device.join(*everything(tmp_path)).code == 0
    (device.root / "var/lib/sled/drafts/model.gguf").write_bytes(b"GGUF")
    done = device.run("--undo")
    assert done.code == 0, done.text
    assert device.files() == before
    assert not (device.root / "etc/rancher").exists()
    assert "kubectl delete node" in done.out
    assert device.run("--undo").out.strip() == "nothing of sled-edge-join is here"


def test_undo_after_a_crash_between_two_files(device: Device) -> None:
    """Every file is recorded before it is placed: what a killed run left is found by the record alone."""
    before = device.files()
    assert device.join().code == 0
    (device.root / CONFIG.lstrip("/")).rename(device.root / (CONFIG + ".sled-new").lstrip("/"))
    (device.root / "etc/rancher/k3s/sled-join-token").unlink()
    assert device.run("--undo").code == 0
    assert device.files() == before


def test_a_dry_run_shows_everything_but_the_token_and_changes_nothing(
    device: Device, tmp_path: Path
) -> None:
    before = device.files()
    done = device.join("--dry-run", *everything(tmp_path))
    assert done.code == 0, done.text
    assert device.files() == before
    assert "would write /etc/rancher/k3s/sled-join-token (mode 600)" in done.out
    assert '|   - "sled.dev/device-class=pi4"' in done.out
    assert TOKEN not in done.text
    assert device.join().code == 0
    joined = device.files()
    assert "would remove" in device.run("--undo", "--dry-run").out
    assert device.files() == joined


def test_a_file_of_someone_else_is_never_overwritten(device: Device, tmp_path: Path) -> None:
    path = device.root / REGISTRIES.lstrip("/")
    path.parent.mkdir(parents=True)
    path.write_text("mirrors: {}\n")
    done = device.join(*everything(tmp_path))
    assert done.code == 1
    assert "was not written by this kit" in done.err
    assert path.read_text() == "mirrors: {}\n"
    assert device.join().code == 0
    assert device.run("--undo").code == 0
    assert path.read_text() == "mirrors: {}\n"


def test_a_pi_without_memory_accounting_is_told_to_reboot(tmp_path: Path) -> None:
    device = Device(boards.PI_4B_WITHOUT_MEMORY_CGROUP, tmp_path)
    before = device.files()
    assert device.join().code == 0
    words = device.read("/boot/firmware/cmdline.txt")
    assert words == before["boot/firmware/cmdline.txt"][1].decode().replace(
        "\n", " cgroup_memory=1 cgroup_enable=memory\n"
    )
    again = device.join()
    assert again.code == 3
    assert "reboot, then run this again" in again.err
    assert device.read("/boot/firmware/cmdline.txt") == words
    assert device.run("--undo").code == 0
    assert device.files() == before


@pytest.mark.parametrize(
    ("text", "mode", "sentence"),
    [
        (TOKEN, 0o640, "others may read or write the token file"),
        (TOKEN, 0o604, "others may read or write the token file"),
        ("", 0o600, "must be one line"),
        (f"{TOKEN}\n{TOKEN}\n", 0o600, "must be one line"),
        ("K10 and a blank\n", 0o600, "characters that no K3s token has"),
        ("0123456789abcdef\n", 0o600, "does not pin the server's certificate authority"),
    ],
)
def test_a_token_that_cannot_be_right_is_refused(
    device: Device, text: str, mode: int, sentence: str
) -> None:
    before = device.files()
    device.write_token(text, mode)
    done = device.join()
    assert done.code == 1
    assert sentence in done.err
    assert TOKEN not in done.text
    assert device.files() == before


def test_the_token_may_come_from_standard_input(device: Device) -> None:
    done = device.run("--server", SERVER, "--token-file", "-", stdin=TOKEN + "\r\n")
    assert done.code == 0, done.text
    assert device.read("/etc/rancher/k3s/sled-join-token") == TOKEN + "\n"
    assert TOKEN not in done.text


def test_a_short_token_can_be_trusted_on_first_use(device: Device) -> None:
    device.write_token("0123456789abcdef\n")
    assert device.join("--trust-on-first-use").code == 0
