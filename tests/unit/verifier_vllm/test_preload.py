"""The environment of a vLLM process on a processor."""

from __future__ import annotations

from pathlib import Path

from sled_verifier.vllm.preload import environment_for_vllm, library_folder


def test_the_library_comes_first_and_what_is_set_stays(tmp_path: Path) -> None:
    assert environment_for_vllm({}, 2, tmp_path) is None
    library = tmp_path / "libiomp5.so"
    library.touch()
    found = environment_for_vllm({"KMP_BLOCKTIME": "7", "LD_PRELOAD": "x.so"}, 2, tmp_path)
    assert found == {
        "KMP_BLOCKTIME": "7",
        "OMP_NUM_THREADS": "2",
        "LD_PRELOAD": f"{library} x.so",
    }
    assert environment_for_vllm(found, 2, tmp_path) is None


def test_the_library_is_found_beside_the_interpreter_or_the_packages(tmp_path: Path) -> None:
    places = [str(tmp_path / name) for name in ("prefix", "", "packages", "more")]
    assert library_folder(places) == tmp_path / "prefix/lib"
    for name in ("packages", "more"):
        (tmp_path / name / "lib").mkdir(parents=True)
        (tmp_path / name / "lib/libiomp5.so").touch()
    assert library_folder(places) == tmp_path / "packages/lib"
