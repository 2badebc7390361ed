"""Tokens to text, one token at a time: whole UTF-8 characters only, and nothing of a stop string.

Must not know HTTP. Whatever is released in pieces, joined, equals what one call over all tokens
would give: the same characters whether a client streams or not, and however rounds fell.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

MAX_STOP_STRINGS = 4
MAX_STOP_CHARACTERS = 512


class InvalidStop(ValueError):
    """The stop strings cannot be used; the message says why."""


class StopMatcher:
    """Finds the first place where a stop string is complete, over text that arrives in pieces.

    The match that ends first wins; of several ending there, the longest. That rule does not depend
    on where pieces begin and end. At most `max(len(stop)) - 1` characters are held back.

    `keep_stop` leaves the stop string in the text, and then nothing is held back.

    Raises:
        InvalidStop: more than `MAX_STOP_STRINGS`, an empty one, or one above `MAX_STOP_CHARACTERS`.
    """

    def __init__(self, stops: Sequence[str] = (), *, keep_stop: bool = False) -> None:
        check_stops(stops)
        self._stops = tuple(stops)
        self._keep_stop = keep_stop
        self._longest = max(map(len, self._stops), default=1)
        self._tail = ""
        """The end of the text so far that may begin a stop string; out already if `keep_stop`."""
        self.stopped = False

    @property
    def holding(self) -> bool:
        """True when characters are held back."""
        return bool(self._tail) and not self._keep_stop

    def push(self, text: str) -> str:
        """Take more text; return what may be released. Nothing once `stopped`."""
        if self.stopped:
            return ""
        pending = self._tail + text
        released_before = len(self._tail) if self._keep_stop else 0
        match = self._first_match(pending)
        if match is not None:
            self.stopped = True
            self._tail = ""
            start, end = match
            return pending[released_before:end] if self._keep_stop else pending[:start]
        keep = self._possible_start(pending)
        self._tail = pending[len(pending) - keep :]
        return text if self._keep_stop else pending[: len(pending) - keep]

    def finish(self) -> str:
        """End of the text: what was held back."""
        rest = "" if self._keep_stop else self._tail
        self._tail = ""
        return rest

    def _first_match(self, pending: str) -> tuple[int, int] | None:
        found = ((pending.find(stop), stop) for stop in self._stops)
        spans = [(start, start + len(stop)) for start, stop in found if start >= 0]
        return min(spans, key=lambda span: (span[1], span[0]), default=None)

    def _possible_start(self, pending: str) -> int:
        """Length of the longest end of `pending` that begins a stop string."""
        for length in range(min(len(pending), self._longest - 1), 0, -1):
            if any(stop.startswith(pending[-length:]) for stop in self._stops):
                return length
        return 0


class TextStream:
    """The text of one generation, from the bytes of its tokens.

    Bytes that do not complete a character are held back (three at most); bytes that are no UTF-8
    become U+FFFD, at the end of the text too. Stop strings as in `StopMatcher`.
    """

    def __init__(self, stops: Sequence[str] = (), *, keep_stop: bool = False) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._matcher = StopMatcher(stops, keep_stop=keep_stop)

    @property
    def stopped(self) -> bool:
        """True when a stop string is complete: the generation may end."""
        return self._matcher.stopped

    @property
    def holding(self) -> bool:
        """True when tokens pushed so far may still release characters."""
        return self._matcher.holding or bool(self._decoder.getstate()[0])

    def push(self, piece: bytes) -> str:
        """Take a token's bytes; return the text that is certain by now, possibly none."""
        return self._matcher.push(self._decoder.decode(piece))

    def finish(self) -> str:
        """No more tokens: return the rest."""
        rest = self._matcher.push(self._decoder.decode(b"", final=True))
        return rest + self._matcher.finish()


def check_stops(stops: Sequence[str]) -> None:
    """Refuse stop strings that `StopMatcher` does not take.

    Raises:
        InvalidStop: as there.
    """
    if len(stops) > MAX_STOP_STRINGS:
        raise InvalidStop(f"{len(stops)} stop strings; allowed: at most {MAX_STOP_STRINGS}")
    for index, stop in enumerate(stops):
        if not 0 < len(stop) <= MAX_STOP_CHARACTERS:
            raise InvalidStop(
                f"stop string {index} has {len(stop)} characters; "
                f"allowed: 1 to {MAX_STOP_CHARACTERS}"
            )
