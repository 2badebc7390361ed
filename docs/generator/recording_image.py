"""A recorded terminal session as an SVG image, for readers without a player: every line, and when each command began."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

PROMPT = "$ "
CONTINUED = "> "
_LINE = 17
_CHARACTER = 7.83
_LEFT = 62
_STYLE = (
    "text{font:13px ui-monospace,Menlo,Consolas,monospace;white-space:pre;fill:#d5d9e0}"
    ".typed{fill:#8fd694;font-weight:600}.at{fill:#7a8190;text-anchor:end}"
)


def image(recording: Path) -> str:
    """The SVG of an asciicast v2 file."""
    header, *events = (json.loads(line) for line in recording.read_text("utf-8").splitlines())
    lines = list(_lines(events, int(header["width"])))
    width = round(_LEFT + _CHARACTER * int(header["width"])) + 12
    height = _LINE * (len(lines) + 1) + 6
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape(header['title'])}</title>",
        f'<style>{_STYLE}</style><rect width="100%" height="100%" rx="6" fill="#1c2029"/>',
    ]
    for number, (seconds, text) in enumerate(lines, 1):
        y = _LINE * number + 4
        typed = seconds is not None or text.startswith(CONTINUED)
        if seconds is not None:
            parts.append(f'<text class="at" x="{_LEFT - 12}" y="{y}">{seconds:.1f} s</text>')
        kind = ' class="typed"' if typed else ""
        if text:
            parts.append(f'<text{kind} x="{_LEFT}" y="{y}">{escape(text)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _lines(events: list[list[object]], columns: int) -> Iterator[tuple[float | None, str]]:
    """Lines of the screen, long ones broken as a terminal breaks them; with the moment of a command."""
    rest = ""
    began: float | None = None
    for at, _, text in events:
        if not rest and str(text).startswith(PROMPT):
            began = float(str(at))
        *whole, rest = (rest + str(text)).replace("\r\n", "\n").split("\n")
        for line in whole:
            for start in range(0, max(1, len(line)), columns):
                yield began, line[start : start + columns]
                began = None
    if rest:
        yield began, rest
