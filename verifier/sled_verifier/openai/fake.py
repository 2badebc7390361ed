"""A model server that is the toy model: for tests of the backend without a server. Must not open a socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from sled_verifier.engine.fake import ToyModel


class FakeTarget:
    """`TargetServer` over a `ToyModel`. `before_answer` sees every question first; it may wait, or raise
    `TargetError` as a failing server would.
    """

    def __init__(
        self,
        model: ToyModel | None = None,
        before_answer: Callable[[Sequence[int], Sequence[int]], Awaitable[None]] | None = None,
    ) -> None:
        self.model = model or ToyModel()
        self.asked = 0
        self.together = 0
        """Most questions that were open at once."""
        self.closed = False
        self._open = 0
        self._before_answer = before_answer

    async def choices(self, prefix: Sequence[int], draft: Sequence[int]) -> tuple[int, ...]:
        """See `TargetServer.choices`."""
        self.asked += 1
        self._open += 1
        self.together = max(self.together, self._open)
        try:
            if self._before_answer is not None:
                await self._before_answer(prefix, draft)
            text = [*prefix, *draft]
            ends = range(len(prefix), len(text) + 1)
            return tuple(int(self.model.logits(text[:end]).argmax()) for end in ends)
        finally:
            self._open -= 1

    async def close(self) -> None:
        """See `TargetServer.close`."""
        self.closed = True
