from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from sled_cli.errors import BadInput, CliError
from sled_cli.up.state import StateFolder, read_state


def test_one_run_owns_the_folder_and_takes_its_state_file_with_it(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state")
    with folder.owned():
        folder.write_state({"ready": True})
        assert read_state(folder.path) == {"format": 1, "ready": True}
        with pytest.raises(CliError, match="another sled up uses"), folder.owned():
            pass
        assert folder.state_file.exists()
    with pytest.raises(BadInput, match="start one with sled up"):
        read_state(folder.path)


def test_tokens_and_configurations_are_the_owners_alone(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    folder.write_tokens()
    config = folder.write_config("device", "d-0", {"listen": "x"})
    for file in (folder.tokens_file, folder.token_file, config):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert folder.tokens_file.read_text() == f"*:{folder.token_file.read_text()}"
    before = folder.token_file.read_text()
    folder.write_tokens()
    assert folder.token_file.read_text() != before


@pytest.mark.parametrize("text", ["", "[]", json.dumps({"format": 2}), "{"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "up.json").write_text(text)
    with pytest.raises(BadInput, match=r"up\.json"):
        read_state(tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CliError, match="cannot be used"), StateFolder(tmp_path / "file").owned():
        pass
