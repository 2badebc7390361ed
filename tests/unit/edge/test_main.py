from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sled_edge.__main__ import main

LEAST = "deviceId: pi-1\nverifiers: ['127.0.0.1:1']\n"


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def _write(folder: Path, text: str) -> str:
    file = folder / "edge.yaml"
    file.write_text(text)
    return str(file)


def test_help_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "--config" in shown
    assert "Exit status" in shown


def test_a_usable_configuration_is_called_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", _write(tmp_path, LEAST), "--check"]) == 0
    assert "usable" in capsys.readouterr().out


def test_a_bad_configuration_is_named_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", _write(tmp_path, LEAST + "sequences: 0")]) == 2
    assert "edge.yaml: sequences: " in capsys.readouterr().err


def test_files_that_are_not_there_are_named_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = LEAST + "tokenFile: /nowhere/token\ntls: {caFile: /nowhere/ca}\n"
    assert main(["--config", _write(tmp_path, text), "--check"]) == 2
    shown = capsys.readouterr().err
    assert "tokenFile: there is no file /nowhere/token" in shown
    assert "tls.caFile: there is no file /nowhere/ca" in shown


def test_a_taken_port_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"listen: 127.0.0.1:{taken.getsockname()[1]}\n"
        assert main(["--config", _write(tmp_path, LEAST + listen)]) == 1
    assert "cannot bind" in capsys.readouterr().err
