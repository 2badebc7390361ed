"""The kit as root on a whole device: joins, repeats, upgrades, refuses. systemd and K3s are stand-ins."""

from __future__ import annotations

import shutil

import pytest

from sled_testkit.join_container import PINNED, Container
from sled_testkit.join_kit import SERVER, TOKEN

NEWER = "v1.36.4+k3s1"
OLDER = "v1.35.9+k3s2"
TOKEN_PATH = "root/etc/rancher/k3s/sled-join-token"
SECRET = TOKEN.split("::server:")[1]


def test_the_first_join_installs_starts_and_waits(device: Container) -> None:
    done = device.join()
    assert done.code == 0, done.text
    assert f"joined {SERVER}" in done.out
    assert device.read("joined") == f'server: "{SERVER}"\n{PINNED}\n'
    assert device.read("active") == "active\n"
    calls = device.read("calls").splitlines()
    assert calls.count("k3s agent") == 1
    assert calls.count("systemctl restart --no-block k3s-agent") == 1
    files = device.files()
    assert files["local/bin/k3s"][0] & 0o777 == 0o755
    assert files[TOKEN_PATH][:2] == (0o100600, 0)
    assert files["root/etc/systemd/system/k3s-agent.service.env"][2] == b""
    assert not [path for path in files if path.startswith("root/run/sled-edge-join")]


def test_k3s_is_fetched_when_none_is_given(device: Container) -> None:
    shutil.copytree(device.record / "programs", device.record / "internet", symlinks=True)
    device.k3s(PINNED, f"internet/k3s-{PINNED}")
    shutil.copy(device.record / "install.sh", device.record / "internet")
    done = device.run("--server", SERVER, "--token-file", "/record/token")
    assert done.code == 0, done.text
    assert device.read("joined").endswith(PINNED + "\n")
    (asked,) = (call for call in device.read("calls").splitlines() if call.startswith("curl"))
    assert asked.endswith("/k3s-io/k3s/v1.36.3%2Bk3s1/install.sh")


def test_without_a_network_the_files_are_asked_for(device: Container) -> None:
    done = device.run("--server", SERVER, "--token-file", "/record/token")
    assert done.code == 1
    assert "bring it and K3s: --installer FILE --k3s-binary FILE" in done.err


def test_a_second_run_changes_nothing(device: Container) -> None:
    assert device.join().code == 0
    files, stamps = device.files(), device.stamps()
    (device.record / "calls").unlink()
    done = device.join()
    assert done.code == 0, done.text
    assert "unchanged and running" in done.out
    assert (device.files(), device.stamps()) == (files, stamps)
    assert "systemctl restart" not in device.read("calls")


def test_an_upgrade_restarts_once_into_the_new_version(device: Container) -> None:
    assert device.join().code == 0
    device.k3s(NEWER)
    (device.record / "calls").unlink()
    done = device.join("--k3s-version", NEWER)
    assert done.code == 0, done.text
    assert device.read("joined").endswith(NEWER + "\n")
    assert device.read("calls").splitlines().count("k3s agent") == 1
    assert "unchanged and running" in device.join("--k3s-version", NEWER).out


def test_a_changed_option_restarts_the_agent(device: Container) -> None:
    assert device.join().code == 0
    done = device.join("--server", "https://other.lan:6443")
    assert done.code == 0, done.text
    assert "other.lan" in device.read("joined")


@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        (OLDER, f"K3s here is {PINNED}, newer than {OLDER}"),
        (NEWER, f"is {PINNED}, and {NEWER} is to be installed"),
    ],
)
def test_a_refused_version_changes_nothing(device: Container, version: str, sentence: str) -> None:
    """The older one is really there; in place of the newer one lies the old one."""
    assert device.join().code == 0
    if version == OLDER:
        device.k3s(OLDER)
    before = device.files()
    done = device.join("--k3s-version", version, "--label", "site=lab")
    assert done.code == 1
    assert sentence in done.err
    assert device.files() == before


def test_a_file_that_is_no_k3s_is_refused_before_anything_changes(device: Container) -> None:
    before = device.files()
    device.write("k3s", "not a program\n")
    done = device.join()
    assert done.code == 1
    assert "not a K3s that runs on this device" in done.err
    assert device.files() == before


# ---- what else stands in the way -------------------------------------------------------------


def test_without_root_nothing_is_touched(device: Container) -> None:
    before = device.files()
    (device.record / "token").chmod(0o400)
    shutil.chown(device.record / "token", 65534)
    done = device.join(user="65534:65534")
    assert done.code == 1
    assert "must run as root: sudo sled-edge-join" in done.err
    assert device.files() == before
    dry = device.join("--dry-run", user="65534:65534")
    assert dry.code == 0, dry.text
    assert "would install K3s" in dry.out
    assert device.files() == before
    assert device.join().code == 0
    assert "read by root only" in device.join(user="65534:65534").err
    assert "must run as root" in device.run("--undo", user="65534:65534").err


def test_without_systemd_nothing_is_touched(device: Container) -> None:
    (device.root / "run/systemd/system").rmdir()
    before = device.files()
    done = device.join()
    assert done.code == 1
    assert "does not run systemd" in done.err
    assert device.files() == before


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("root/etc/systemd/system/k3s.service", "K3s is on this machine already (k3s.service)"),
        ("root/etc/systemd/system/k3s-agent.service", "this kit did not install it"),
        ("local/bin/k3s", "k3s is there already and this kit did not install it"),
    ],
)
def test_a_k3s_of_someone_else_is_left_alone(device: Container, path: str, sentence: str) -> None:
    (device.device / path).write_text("someone else's\n")
    before = device.files()
    done = device.join()
    assert done.code == 1
    assert sentence in done.err
    assert device.files() == before
    assert "nothing of sled-edge-join is here" in device.run("--undo").out
    assert device.files() == before


def test_a_failing_installer_is_said_and_can_be_repeated(device: Container) -> None:
    device.write("installer-fails", "")
    done = device.join()
    assert done.code == 1
    assert "[ERROR]  Download failed" in done.err
    assert "K3s's installer failed" in done.err
    (device.record / "installer-fails").unlink()
    assert device.join().code == 0


def test_a_refusing_systemd_is_said(device: Container) -> None:
    device.write("systemd-refuses", "")
    done = device.join()
    assert done.code == 1
    assert "Access denied" in done.err
    assert "systemd does not start k3s-agent" in done.err


def test_a_token_that_the_server_refuses_ends_in_time_and_can_be_corrected(
    device: Container,
) -> None:
    device.write("cluster-token", "another\n")
    done = device.join("--wait", "4")
    assert done.code == 1
    assert "the node has not joined in 4 s" in done.err
    assert "journalctl -u k3s-agent" in done.err
    device.write("cluster-token", TOKEN + "\n")
    again = device.join()
    assert again.code == 0, again.text
    assert f"joined {SERVER}" in again.out


def test_a_node_that_had_joined_is_not_taken_for_joined_when_its_new_token_fails(
    device: Container,
) -> None:
    assert device.join().code == 0
    device.write("token", TOKEN.replace("2f1e", "ffff") + "\n")
    done = device.join("--wait", "2")
    assert done.code == 1
    assert "the node has not joined in 2 s" in done.err


# ---- the token -------------------------------------------------------------------------------


def test_the_token_is_in_one_file_and_nowhere_else(device: Container) -> None:
    """Every program that ran wrote down its arguments and its environment."""
    printed = ""
    for done in (device.join(), device.join(), device.join("--dry-run")):
        assert done.code == 0, done.text
        printed += done.text
    for seen in (printed, *(device.read(name) for name in ("calls", "environment", "journal"))):
        assert SECRET not in seen
    assert "sed" in device.read("calls")
    assert "export PATH" in device.read("environment")
    holding = [path for path, file in device.files().items() if SECRET.encode() in file[2]]
    assert holding == [TOKEN_PATH]
