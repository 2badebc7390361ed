"""Files that appear whole or not at all: hashing, locking between processes, room on the disk."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sled_cli.models.errors import NotEnoughSpace, StoreBusy

BLOCK_BYTES: Final = 1024 * 1024
LOCK_SECONDS: Final = 3600.0
"""How long a process waits for another one that fetches the same model."""

_SPARE_BYTES: Final = 64 * 1024 * 1024
_POLL_SECONDS: Final = 0.2


def sha256_of(path: Path, on_bytes: Callable[[int], None] = lambda _: None) -> str:
    """Hexadecimal SHA-256 of a file; `on_bytes` is told how many bytes were read so far."""
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            done += len(block)
            on_bytes(done)
    return digest.hexdigest()


def move_into_place(source: Path, target: Path) -> None:
    """Flush `source` to the disk and give it its final name in one step."""
    descriptor = os.open(source, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)


def require_space(folder: Path, size_bytes: int) -> None:
    """Refuse to start a file that the disk cannot take.

    Raises:
        NotEnoughSpace: less than `size_bytes` and a margin is free.
    """
    free = shutil.disk_usage(folder).free
    if free < size_bytes + _SPARE_BYTES:
        raise NotEnoughSpace(
            f"{folder} has {free / 1e6:.0f} MB free; the model needs {size_bytes / 1e6:.0f} MB"
        )


@contextmanager
def locked(
    path: Path, on_wait: Callable[[], None] = lambda: None, seconds: float = LOCK_SECONDS
) -> Iterator[None]:
    """Hold the lock file `path` against every other process and thread; freed by the system if this
    one dies.

    Raises:
        StoreBusy: it was not free within `seconds`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + seconds
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise StoreBusy(
                        f"another process has held {path.name} for {seconds:.0f} s"
                    ) from None
                on_wait()
                time.sleep(_POLL_SECONDS)
        yield
