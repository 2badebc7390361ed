from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PACKAGES = [ROOT / p for p in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]
MODULES = sorted(
    file
    for package in PACKAGES
    for file in package.rglob("*.py")
    if not re.search(r"_pb2(_grpc)?\.py$", file.name)
)
MAX_LINES = 400
SKIPPED = {".venv", ".git", "__pycache__"}


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_nothing_shadows_the_standard_library() -> None:
    """An `__init__.py` in `operator/` would hide the module that half of Python is built on."""
    code = "import operator, collections; assert operator.itemgetter(0)([1]) == 1"
    for command in ([sys.executable, "-c", code], [sys.executable, "-m", "this"]):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    for package in PACKAGES:
        assert not (package.parent / "__init__.py").exists(), short(package.parent)


def test_no_init_files_under_tests_but_the_kit() -> None:
    kit = ROOT / "tests" / "support" / "sled_testkit"
    found = [
        short(file)
        for file in (ROOT / "tests").rglob("__init__.py")
        if kit not in file.parents and not SKIPPED & set(file.parts)
    ]
    assert found == []


@pytest.mark.parametrize("folder", sorted({p.parent for p in PACKAGES}), ids=lambda p: p.name)
def test_only_our_packages_lie_in_a_role_folder(folder: Path) -> None:
    """The folder is on `sys.path`: another package there would become a top-level name."""
    importable = {
        path.name
        for path in folder.iterdir()
        if path.suffix == ".py" or (path.is_dir() and any(path.rglob("*.py")))
    }
    assert {name for name in importable - SKIPPED if not name.startswith("sled_")} == set()


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_every_package_is_typed(package: Path) -> None:
    assert (package / "__init__.py").is_file()
    assert (package / "py.typed").is_file()


@pytest.mark.parametrize("file", MODULES, ids=short)
def test_every_module_says_why_it_exists(file: Path) -> None:
    tree = ast.parse(file.read_text("utf-8"))
    assert ast.get_docstring(tree), "no docstring"


def test_files_are_short() -> None:
    files = [*MODULES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py")]
    long = [
        f"{short(file)}: {lines} lines"
        for file in files
        if not SKIPPED & set(file.parts)
        and (lines := len(file.read_text("utf-8").splitlines())) > MAX_LINES
    ]
    assert long == []


def test_the_import_contracts_cover_every_package() -> None:
    assert set(PROJECT["tool"]["importlinter"]["root_packages"]) == {p.name for p in PACKAGES}
    assert {str(p.parent.name) for p in PACKAGES} <= set(PROJECT["tool"]["mypy"]["files"])


def test_the_readme_names_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert "make demo" in readme
    assert "make test" in readme


def test_make_and_ci_offer_what_is_promised() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert {"help", "env", "demo", "test", "check", "bench", "proto", "clean"} <= targets
    ci = ROOT / ".ci" / "run"
    assert ci.stat().st_mode & 0o111
    assert "make test" in ci.read_text("utf-8")


def test_nothing_names_the_machine_it_was_written_on() -> None:
    pattern = re.compile(r"(?<![\w.])/(work|root)/(?!\.)")
    found = [
        short(file)
        for folder in (*{p.parent for p in PACKAGES}, ROOT / "docs", ROOT / "examples")
        for file in folder.rglob("*")
        if file.suffix in {".py", ".md", ".yaml", ".yml", ".proto", ".toml"}
        and not SKIPPED & set(file.parts)
        and pattern.search(file.read_text("utf-8"))
    ]
    assert found == []
