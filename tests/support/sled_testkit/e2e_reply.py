"""What an application on a device received, as it arrived, by a client that runs beside the test.

Why: whether a token was lost, said twice or late is seen only by who reads the stream. Must not
retry or repair anything.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
import time
from dataclasses import dataclass, field

PATIENCE_SECONDS = 180.0


class ClientFailed(RuntimeError):
    """The application on the device got an error instead of its text; the message is what it printed."""


@dataclass(slots=True, eq=False)
class Reply:
    """What an application on a device received, as it arrived."""

    process: subprocess.Popen[str]
    asked: int
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    prompt: list[int] = field(default_factory=list)
    verified: bool = True
    verified_tokens: int = 0
    """Tokens before the first that no verifier has judged."""
    arrivals: list[float] = field(default_factory=list)
    """When events with tokens came, on the monotonic clock."""
    ended: bool = False
    """Whether the client saw the end of the text."""
    closed: bool = False
    """Whether the client has ended."""
    errors: str = ""
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def read(self) -> None:
        """Take lines until the client ends; runs in a thread of its own."""
        for line in self.process.stdout or ():
            event = json.loads(line)
            with self._changed:
                tokens = event.get("tokens") or []
                self.tokens += tokens
                if tokens:
                    self.arrivals.append(time.monotonic())
                self.prompt = event.get("prompt") or self.prompt
                self.text += event.get("text", "")
                self.verified &= (event.get("report") or {}).get("verified", True)
                if self.verified:
                    self.verified_tokens = len(self.tokens)
                self.ended |= event.get("end", False)
                self._changed.notify_all()
        errors = self.process.stderr.read() if self.process.stderr else ""
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        with self._changed:
            self.errors, self.closed = errors, True
            self._changed.notify_all()

    def wait_tokens(self, count: int, timeout_seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until so many tokens have arrived.

        Raises:
            ClientFailed: the text ended or stopped before that.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: len(self.tokens) >= count or self.closed, timeout_seconds
            )
        if len(self.tokens) < count:
            raise ClientFailed(f"{len(self.tokens)} of {count} tokens: {self.errors[-1500:]}")

    def wait_closed(self, timeout_seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until the client has ended, whatever it got.

        Raises:
            ClientFailed: it has not.
        """
        with self._changed:
            closed = self._changed.wait_for(lambda: self.closed, timeout_seconds)
        if not closed:
            self.process.kill()
            raise ClientFailed(f"no end after {len(self.tokens)} tokens")

    def finish(self, timeout_seconds: float = PATIENCE_SECONDS) -> Reply:
        """Wait for the end of the text.

        Raises:
            ClientFailed: the client got an error, or nothing more.
        """
        self.wait_closed(timeout_seconds)
        if self.process.returncode != 0 or not self.ended:
            raise ClientFailed(f"after {len(self.tokens)} tokens: {self.errors[-1500:]}")
        return self

    def pause_after(self, moment: float) -> float:
        """The longest time without a token that ended after `moment`, from then on: what a user saw of an outage."""
        later = [max(each, moment) for each in self.arrivals]
        return max((b - a for a, b in itertools.pairwise(later)), default=0.0)
