"""A recorded session holds what was typed and what came back, and its image shows every line of it."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from sled_testkit.terminal_session import CommandFailed, TerminalSession

GENERATOR = Path(__file__).resolve().parents[3] / "docs" / "generator" / "recording_image.py"


@pytest.fixture
def session(tmp_path: Path) -> TerminalSession:
    return TerminalSession("a test", tmp_path, {"PATH": os.environ["PATH"]})


def recording_image() -> ModuleType:
    spec = importlib.util.spec_from_file_location("recording_image", GENERATOR)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_typed_and_printed_is_kept_in_order(
    session: TerminalSession, tmp_path: Path
) -> None:
    assert session.run("echo one; test -t 1 && echo two >&2") == "one\r\ntwo\r\n"
    session.run("pwd")
    session.write(tmp_path / "a.cast")
    header, *events = map(json.loads, (tmp_path / "a.cast").read_text().splitlines())
    assert (header["version"], header["title"]) == (2, "a test")
    assert all(kind == "o" for _, kind, _ in events)
    moments = [at for at, _, _ in events]
    assert moments == sorted(moments)
    shown = "".join(text for _, _, text in events)
    typed = "$ echo one; test -t 1 && echo two >&2\r\n"
    assert shown == f"{typed}one\r\ntwo\r\n$ pwd\r\n{tmp_path}\r\n"


def test_a_command_that_fails_or_hangs_ends_the_session(session: TerminalSession) -> None:
    with pytest.raises(CommandFailed, match="no such thing"):
        session.run("echo no such thing; exit 3")
    with pytest.raises(CommandFailed, match="not finished"):
        session.run("exec sleep 60", timeout_seconds=0.2)


def test_the_image_shows_every_line(session: TerminalSession, tmp_path: Path) -> None:
    session.run("echo 'a < b & c'; echo; seq 3")
    session.run("printf %0400d 7")
    session.write(tmp_path / "a.cast")
    root = ElementTree.fromstring(recording_image().image(tmp_path / "a.cast"))
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a < b & c", "1", "2", "3", "$ echo 'a < b & c'; echo; seq 3"} <= set(texts)
    assert sum(len(text or "") for text in texts if set(text or "x") <= {"0", "7"}) == 400
    assert sum((text or "").endswith(" s") for text in texts) == 2
