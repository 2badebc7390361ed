"""`sled models` as a person types it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sled_cli.models.commands import megabytes, models, progress_bar
from sled_cli.models.errors import InvalidSource, ModelError, UnknownModel
from sled_cli.models.progress import Progress, Stage


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLED_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path / "models"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(models, arguments, catch_exceptions=True)


def test_help_names_the_sources() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for word in ("list", "fetch", "path", "verify", "remove", "hf://"):
        assert word in result.output


def test_list_shows_the_catalogue_and_what_is_here(hub: object, cache: Path) -> None:
    assert run("fetch", "hf://org/repo/toy.gguf@v1").exit_code == 0
    lines = run("list").output.splitlines()
    assert any(line.startswith("smollm2-135m-f32 ") for line in lines)
    assert any("hf://org/repo/toy.gguf@v1" in line and "yes" in line for line in lines)


def test_fetch_prints_the_path_and_nothing_else_on_stdout(hub: object, cache: Path) -> None:
    result = run("fetch", "hf://org/repo/toy.gguf@v1")
    assert Path(result.stdout.strip()).is_file()
    assert run("path", "hf://org/repo/toy.gguf@v1").stdout == result.stdout
    assert "downloading toy" in result.stderr


def test_verify_and_remove(hub: object, cache: Path) -> None:
    source = "hf://org/repo/toy.gguf@v1"
    path = Path(run("fetch", source).stdout.strip())
    assert run("verify").output.count("good") == 1
    assert run("verify", source).exit_code == 0
    path.write_bytes(b"rot")
    result = run("verify")
    assert "WRONG" in result.output
    assert isinstance(result.exception, ModelError)
    assert "freed" in run("remove", source).output
    assert "was not in the cache" in run("remove", source).output


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("fetch", "https://example.org/x"), InvalidSource),
        (("fetch", "no-such-model"), UnknownModel),
        (("path", "smollm2-135m-f32"), UnknownModel),
        (("verify", "smollm2-135m-f32"), ModelError),
        (("remove", "file:///x.gguf"), UnknownModel),
    ],
)
def test_errors_are_typed(arguments: tuple[str, ...], error: type[Exception]) -> None:
    result = run(*arguments)
    assert result.exit_code != 0
    assert isinstance(result.exception, error)


def test_a_bar_follows_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as progress:
        progress(Progress("toy", Stage.DOWNLOAD, 1, 10))
        progress(Progress("toy", Stage.DOWNLOAD, 2, 10))
        progress(Progress("toy", Stage.VERIFY, 10, 10))
    assert capsys.readouterr().err.splitlines() == ["downloading toy", "verifying toy"]


def test_sizes_for_people() -> None:
    assert megabytes(98_362_432) == "98 MB"
    assert megabytes(1_894_532_160) == "1,895 MB"
