"""The command line: what is malformed is refused with a sentence before anything is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from sled_testkit import join_boards as boards
from sled_testkit.join_kit import KIT, PROGRAM, SERVER, TOKEN, Device, run

REFUSED = {
    "no server": (["--token-file", "T"], "--server is missing"),
    "no token": (["--server", SERVER], "--token-file is missing"),
    "token as a word": (["--server", SERVER, "--token", TOKEN], "use --token-file"),
    "plain http": (["--server", "http://k3s.lan:6443"], "--server is https://host:6443"),
    "equals sign": (["--server=https://k3s.lan:6443"], "as two words"),
    "no value": (["--server"], "--server needs a value"),
    "unknown": (["--sever", SERVER], "there is no option --sever"),
    "node name": (["--node-name", "Pi_7"], "--node-name is lower-case"),
    "class": (["--device-class", "Pi 5"], "--device-class is lower-case"),
    "label": (["--label", "site"], "--label is KEY=VALUE"),
    "label with a line break": (["--label", "site=a\nserver: x"], "--label is KEY=VALUE"),
    "label of Kubernetes": (["--label", "node-role.kubernetes.io/edge=1"], "set it with kubectl"),
    "label of the operator": (["--label", "drafter.sled.dev/a.b=c"], "belong to the operator"),
    "taint": (["--taint", "a=b"], "--taint is KEY[=VALUE]:NoSchedule"),
    "version": (["--k3s-version", "latest"], "--k3s-version is like v1."),
    "mirror in plain text": (["--registry-mirror", "http://registry.lan"], "a mirror is https"),
    "no images": (["--images", "/nowhere"], "there is no /nowhere"),
    "no file": (["--installer", "/nowhere"], "cannot read the file /nowhere"),
    "wait": (["--wait", "forever"], "--wait is a number of seconds"),
    "root": (["--root", "/nowhere"], "there is no folder /nowhere"),
}


@pytest.mark.parametrize(("arguments", "sentence"), REFUSED.values(), ids=REFUSED)
def test_malformed_is_refused(arguments: list[str], sentence: str) -> None:
    done = run([str(PROGRAM), *arguments])
    assert (done.code, done.out) == (2, ""), done.text
    assert sentence in done.err
    assert "--help" in done.err
    assert TOKEN not in done.text


def test_pairs_that_need_each_other(tmp_path: Path) -> None:
    device = Device(boards.PI_5, tmp_path)
    file = str(device.token)
    for arguments, sentence in (
        (["--registry-ca", file], "needs a --registry-mirror"),
        (["--k3s-binary", file], "needs --installer"),
    ):
        done = device.join(*arguments)
        assert (done.code, sentence in done.err) == (2, True)


def test_help_names_every_option() -> None:
    code = (KIT / "lib" / "options.sh").read_text()
    done = run([str(PROGRAM), "--help"])
    assert done.code == 0
    options = {word for word in code.replace("|", " ").split() if word.startswith("--")}
    named = {
        word.rstrip(")") for word in options if word.rstrip(")")[2:].replace("-", "").isalnum()
    }
    assert len(named) > 20
    assert {each for each in named - {"--token"} if each not in done.out} == set()


def test_the_whole_folder_is_needed(tmp_path: Path) -> None:
    alone = tmp_path / "sled-edge-join"
    alone.write_bytes(PROGRAM.read_bytes())
    done = run(["sh", str(alone)])
    assert done.code == 1
    assert "copy the whole folder" in done.err


def test_the_pin_is_what_the_tests_and_the_documents_name() -> None:
    from sled_testkit.cluster_tools import KUBERNETES

    pinned = run([str(PROGRAM), "--version"]).out.split()[-1]
    assert pinned.startswith(f"v{KUBERNETES}+k3s")
