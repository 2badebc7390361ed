from __future__ import annotations

from pathlib import Path

import click
import pytest

from sled_cli.__main__ import COMMANDS, main

EXAMPLES = Path(__file__).parents[3] / "examples"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int | str | None, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(words)
    out, err = capsys.readouterr()
    return caught.value.code, out, err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for name in COMMANDS:
        assert f"  {name} " in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], name: str) -> None:
    code, out, _ = run(capsys, name, "--help")
    assert code == 0
    assert "Usage: sled " + name in out


@pytest.mark.parametrize(
    "example", [path.name for path in EXAMPLES.iterdir() if any(path.glob("*.yaml"))]
)
def test_every_example_can_be_planned(capsys: pytest.CaptureFixture[str], example: str) -> None:
    code, out, err = run(capsys, "up", "--check", "-f", str(EXAMPLES / example))
    assert (code, err) == (0, "")
    assert out.startswith("verifier ")
    assert out.count("\ndevice ") == 4


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("nonsense",), "No such command"),
        (("up",), "Missing option '-f'"),
        (("up", "-f", "nowhere.yaml"), "sled: nowhere.yaml: no such file or folder"),
    ],
)
def test_bad_input_is_a_sentence_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], sentence: str
) -> None:
    code, _, err = run(capsys, *words)
    assert code == 2
    assert sentence in err
    assert "Traceback" not in err


def _explode() -> None:
    raise RuntimeError("boom")


@pytest.mark.parametrize("debug", [False, True])
def test_the_unexpected_is_a_sentence_and_a_traceback_on_request(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, debug: bool
) -> None:
    monkeypatch.setattr("sled_cli.version.version", click.Command("version", callback=_explode))
    code, _, err = run(capsys, *(["--debug"] if debug else []), "version")
    assert code == 1
    assert "sled: unexpected RuntimeError: boom" in err
    assert ("Traceback" in err) is debug
