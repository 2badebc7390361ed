from __future__ import annotations

from pathlib import Path

from sled_cli.up.lines import LineSplitter
from sled_cli.up.logs import FileLog, render
from sled_cli.up.process import ProcessSpec, Role

SPEC = ProcessSpec("d-0", Role.DEVICE, "m", "c", "u", 1.0)


def test_lines_are_put_together_from_any_pieces() -> None:
    text = "one\nzwölf\r\n\nlast"
    for size in range(1, 8):
        splitter = LineSplitter()
        data = text.encode()
        lines = [
            line
            for start in range(0, len(data), size)
            for line in splitter.feed(data[start : start + size])
        ]
        assert lines + splitter.finish() == ["one", "zwölf", "", "last"]


def test_a_long_line_is_cut_and_counted() -> None:
    splitter = LineSplitter(max_characters=4)
    assert splitter.feed(b"abc") == []
    assert splitter.feed(b"defg") == []
    assert splitter.feed(b"h\nij\n") == ["abcd … (+4 characters)", "ij"]
    assert splitter.finish() == []


def test_what_could_steer_a_terminal_is_replaced() -> None:
    assert LineSplitter().feed(b"a\x1b[31mb\x07\tc\xff\n") == ["a�[31mb�\tc�"]


def test_structured_lines_are_rendered_for_people() -> None:
    line = '{"time": "t", "level": "warning", "logger": "x", "message": "gone", "n": 3, "w": "a b"}'
    assert render(line) == ("warning", 'gone  n=3 w="a b"')
    assert render('{"message": "up"}') == ("", "up")
    assert render('{"level": "error", "message": "m", "exception": "T:\\n  f\\nE: x"}') == (
        "error",
        "m |   f | E: x",
    )
    for plain in ("words", "{not json", '{"no": "message"}', '["message"]'):
        assert render(plain) == ("", plain)


def test_a_log_file_is_bounded_and_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "device-d-0.log").write_text("of the run before\n")
    log = FileLog(tmp_path, max_bytes=10)
    for word in ("four", "five!", "six"):
        log(SPEC, word)
    assert log.path(SPEC).read_text() == "four\nfive!\n"
