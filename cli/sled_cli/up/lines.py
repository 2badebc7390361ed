"""A process's output as lines that are safe to print: bounded, no control characters. Pure."""

from __future__ import annotations

import codecs
from typing import Final

MAX_LINE_CHARACTERS: Final = 4000


class LineSplitter:
    """Bytes in, lines out; a line beyond the bound is cut and its rest is counted, not kept."""

    def __init__(self, max_characters: int = MAX_LINE_CHARACTERS) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._max = max_characters
        self._line = ""
        self._dropped = 0

    def feed(self, data: bytes) -> list[str]:
        """The lines that `data` completes."""
        *whole, rest = self._decoder.decode(data).split("\n")
        lines = []
        for part in whole:
            self._append(part)
            lines.append(self._take())
        self._append(rest)
        return lines

    def finish(self) -> list[str]:
        """The last line, when the output did not end in a newline."""
        self._append(self._decoder.decode(b"", final=True))
        return [self._take()] if self._line or self._dropped else []

    def _append(self, text: str) -> None:
        room = self._max - len(self._line)
        self._line += text[:room]
        self._dropped += max(0, len(text) - room)

    def _take(self) -> str:
        line = "".join(c if c.isprintable() or c == "\t" else "�" for c in self._line.rstrip("\r"))
        if self._dropped:
            line += f" … (+{self._dropped} characters)"
        self._line, self._dropped = "", 0
        return line
