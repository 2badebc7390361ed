from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest

from sled_cli.models.errors import NotEnoughSpace, StoreBusy
from sled_cli.models.files import BLOCK_BYTES, locked, move_into_place, require_space, sha256_of


def test_hashing_tells_how_far_it_is(tmp_path: Path) -> None:
    data = bytes(BLOCK_BYTES) + b"tail"
    (tmp_path / "f").write_bytes(data)
    steps: list[int] = []
    assert sha256_of(tmp_path / "f", steps.append) == hashlib.sha256(data).hexdigest()
    assert steps == [BLOCK_BYTES, BLOCK_BYTES + 4]


def test_moving_replaces_the_target_in_one_step(tmp_path: Path) -> None:
    (tmp_path / "new").write_text("new")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "old").write_text("old")
    move_into_place(tmp_path / "new", tmp_path / "deep" / "old")
    assert (tmp_path / "deep" / "old").read_text() == "new"
    assert not (tmp_path / "new").exists()


def test_a_disk_that_is_too_small_is_refused(tmp_path: Path) -> None:
    require_space(tmp_path, 1)
    with pytest.raises(NotEnoughSpace, match=r"MB free; the model needs"):
        require_space(tmp_path, 10**18)


def test_a_held_lock_is_waited_for_and_then_given_up(tmp_path: Path) -> None:
    waits: list[int] = []
    with (
        locked(tmp_path / "x.lock"),
        pytest.raises(StoreBusy, match=r"x.lock"),
        locked(tmp_path / "x.lock", lambda: waits.append(1), seconds=0.3),
    ):
        pytest.fail("two holders of one lock")
    assert waits


def test_a_lock_is_free_again_afterwards(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path / "x.lock", seconds=0):
            pass


def test_only_one_thread_is_inside(tmp_path: Path) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        with locked(tmp_path / "x.lock"):
            inside += 1
            most = max(most, inside)
            inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
