"""The token ids of a reply, for clients that ask with `return_token_ids`, as vLLM has it.

Text cannot tell whether two decoders agree, because different tokens may spell the same text. Must
not run anything.
"""

from __future__ import annotations

from typing import Any

from sled_edge.api.run import Run, Step


class TokenIds:
    """Collects ids until an event carries them; the first event carries the prompt's too."""

    def __init__(self, run: Run, *, chat: bool) -> None:
        self._prompt: tuple[int, ...] | None = run.ask.request.prompt_tokens
        self._chat = chat
        self._pending: list[int] = []

    def add(self, step: Step) -> None:
        """Take the tokens of a round, also those whose text is still held back."""
        self._pending.extend(part.token for part in step.parts)

    def put_into(self, event: dict[str, Any]) -> None:
        """Give everything collected to a reply or an event with one choice.

        A chat has `prompt_token_ids` beside `choices`, a completion within the choice.
        """
        choice = event["choices"][0]
        choice["token_ids"] = self._pending
        self._pending = []
        if self._prompt is not None:
            holder = event if self._chat else choice
            holder["prompt_token_ids"] = list(self._prompt)
            self._prompt = None
