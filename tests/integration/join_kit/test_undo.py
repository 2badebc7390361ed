"""Undo as root on a whole device: nothing is left, nothing of others is lost, also after the power was cut."""

from __future__ import annotations

import pytest

from sled_testkit.join_container import Container

EVERYTHING = (
    *("--node-name", "pi-7", "--dedicated", "--registry-mirror", "https://registry.lan:5000"),
    *("--registry-ca", "/record/ca.crt", "--images", "/record/images"),
)


@pytest.fixture
def equipped(device: Container) -> Container:
    """With what a join from disk brings, and with files that others left on the device."""
    device.write("ca.crt", "-----BEGIN CERTIFICATE-----\n")
    device.write("images/sled-edge.tar", "image")
    others = device.root / "etc/rancher/k3s"
    others.mkdir(parents=True, mode=0o750)
    (others / "config.yaml").write_text("kubelet-arg: [max-pods=20]\n")
    (device.device / "local/bin/kubectl").write_text("another kubectl\n")
    return device


def test_undo_leaves_the_device_as_it_was(equipped: Container) -> None:
    before = equipped.files()
    assert equipped.join(*EVERYTHING).code == 0
    (equipped.root / "var/lib/sled/drafts/model.gguf").write_bytes(b"GGUF")
    (equipped.root / "var/log/pods/one/0.log").write_text("a line\n")
    joined = equipped.files()
    assert "would stop and uninstall K3s" in equipped.run("--undo", "--dry-run").out
    assert equipped.files() == joined
    done = equipped.run("--undo")
    assert done.code == 0, done.text
    assert equipped.files() == before
    assert equipped.read("active") == ""
    assert equipped.run("--undo").out.strip() == "nothing of sled-edge-join is here"


def test_undo_after_a_refused_token(device: Container) -> None:
    before = device.files()
    device.write("cluster-token", "another\n")
    assert device.join("--wait", "2").code == 1
    assert device.run("--undo").code == 0
    assert device.files() == before


@pytest.mark.timeout(1800)
def test_the_power_may_be_cut_before_any_change(equipped: Container) -> None:
    """Cut, undone, compared: once for every change that a join, the installer and systemd make."""
    before = equipped.files()
    change = 1
    while equipped.cut(change, *EVERYTHING):
        done = equipped.run("--undo")
        assert done.code == 0, (change, done.text)
        found = equipped.files()
        # what lies in /run and /tmp is gone after a loss of power
        assert _kept(found) == _kept(before), change
        change += 1
    assert change > 50
    assert equipped.run("--undo").code == 0
    assert _kept(equipped.files()) == _kept(before)


def test_a_join_that_was_cut_off_is_finished_by_the_next(device: Container) -> None:
    """Also where all files are right already: the agent is restarted into them."""
    assert device.join().code == 0
    assert device.cut(1, "--label", "site=lab")
    for change in range(2, 14, 2):
        cut = device.cut(change, "--label", f"site=lab-{change}")
        (device.record / "joined").unlink(missing_ok=True)
        done = device.join("--label", f"site=lab-{change}")
        assert done.code == 0, (change, done.text)
        assert not cut or device.read("joined"), change


def _kept(files: dict[str, tuple[int, int, bytes]]) -> dict[str, tuple[int, int, bytes]]:
    return {
        path: file
        for path, file in files.items()
        if not path.startswith(("root/run/sled-", "root/tmp/"))
    }
