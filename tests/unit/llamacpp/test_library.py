"""Finding and refusing shared objects; loads the wheel's."""

from __future__ import annotations

import ctypes.util
import logging
import subprocess
import sys
from pathlib import Path

import cffi
import pytest

from sled_llamacpp import Library, LibraryMismatch, LibraryNotFound, Model, ModelLoadError
from sled_llamacpp.library import LIBRARY_SETTING, find_library


def test_the_wheel_is_found_without_importing_it() -> None:
    script = (
        "import sys; from sled_llamacpp.library import Library; Library.load();"
        "print('xllamacpp' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({}, "None 5000"),
        ({"OMP_WAIT_POLICY": "active"}, "active None"),
        ({"GOMP_SPINCOUNT": "7"}, "None 7"),
    ],
)
def test_waiting_threads_sleep_unless_set_otherwise(setting: dict[str, str], expected: str) -> None:
    script = (
        "import os; from sled_llamacpp.library import Library; Library.load();"
        "print(os.environ.get('OMP_WAIT_POLICY'), os.environ.get('GOMP_SPINCOUNT'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": ":".join(sys.path), **setting},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.strip() == expected


def test_loading_twice_gives_the_same_library() -> None:
    assert Library.load() is Library.load()


def test_the_setting_names_another_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.so"
    other.write_bytes(b"")
    monkeypatch.setenv(LIBRARY_SETTING, str(other))
    assert find_library() == other
    assert find_library(find_library(other)) == other


def test_a_missing_library_is_named(tmp_path: Path) -> None:
    with pytest.raises(LibraryNotFound, match=r"no llama.cpp library at .*absent.so"):
        Library.load(tmp_path / "absent.so")


def test_a_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.so"
    path.write_text("not a shared object")
    with pytest.raises(LibraryNotFound, match=r"cannot be loaded"):
        Library.load(path)


def test_a_library_without_llama_cpp_is_refused() -> None:
    with pytest.raises(LibraryMismatch, match=r"it has no llama_"):
        Library.load(some_other_library())


def some_other_library() -> Path:
    """The C library's file, found through what this process has mapped."""
    assert ctypes.util.find_library("c")
    for line in Path("/proc/self/maps").read_text().splitlines():
        name = line.split()[-1]
        if "/libc.so" in name or "/libc-" in name or "ld-musl" in name:
            return Path(name)
    pytest.fail("no C library is mapped")


def test_a_damaged_model_gives_llama_cpps_own_reason(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelLoadError, match=r"broken.gguf could not be loaded: .+"):
        Model(path)


def test_the_log_goes_to_python(caplog: pytest.LogCaptureFixture, tiny_path: Path) -> None:
    with caplog.at_level(logging.DEBUG, logger="sled_llamacpp.native"), Model(tiny_path):
        pass
    assert any("llama" in record.message for record in caplog.records)
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}


def test_the_abort_flag_reads_as_a_boolean() -> None:
    library = Library.load()
    ffi: cffi.FFI = library.ffi
    flag = ffi.new("char[2]")
    assert library.abort_callback(flag) is False
    flag[0] = b"!"
    assert library.abort_callback(flag) is True
