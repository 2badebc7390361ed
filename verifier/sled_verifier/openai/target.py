"""What the backend asks of a model server, and how one can fail. Must not know HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class TargetError(Exception):
    """A server gave no usable answer; the message is a sentence without token text or secrets.

    `retry_after_ms` is how soon asking again may help.
    """

    def __init__(self, message: str, retry_after_ms: int = 1_000) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_ms = retry_after_ms


class TargetServer(Protocol):
    """A server with the target model. Called from one event loop."""

    async def choices(self, prefix: Sequence[int], draft: Sequence[int]) -> tuple[int, ...]:
        """The target's most probable tokens: of the place of each draft token, given the prefix and the draft tokens
        before it, and of the place after the last one: len(draft) + 1 ids.

        Raises:
            TargetError: the server is away, busy, or its answer cannot be used.
        """
        ...

    async def close(self) -> None:
        """End all connections."""
        ...
