"""A speculation loop and a tokenizer without models, for tests and for trying the local API.

Must not draw randomness: the same request always gets the same deltas.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from sled_edge.generation import Delta, FinishReason, GenerationError, GenerationRequest, RoundStats

_MARKERS = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
_BYTES = 256

Reply = Callable[[GenerationRequest], Sequence[int]]
"""What the fake answers: all output tokens of a request; an end token ends it."""


class ByteTokenizer:
    """One token per byte (ids 0 to 255), then four control tokens; ids above stand for nothing.

    `vocab_size` may be larger than 260 to match an engine's; the fingerprint depends on it unless
    one is given.

    Raises:
        ValueError: `vocab_size` is below 260.
    """

    def __init__(self, vocab_size: int = 260, fingerprint: bytes | None = None) -> None:
        if vocab_size < _BYTES + len(_MARKERS):
            raise ValueError(f"vocab_size is {vocab_size}; allowed: at least 260")
        self.vocab_size = vocab_size
        self.fingerprint = (
            hashlib.sha256(b"sled byte vocabulary %d" % vocab_size).digest()
            if fingerprint is None
            else fingerprint
        )
        self.end_tokens: tuple[int, ...] = (_BYTES,)
        self._markers = {marker: _BYTES + index for index, marker in enumerate(_MARKERS)}
        self._splitter = re.compile("(" + "|".join(map(re.escape, _MARKERS)) + ")")

    def encode(self, text: str, *, special: bool) -> list[int]:
        """One id per UTF-8 byte; with `special`, marker texts become their control tokens."""
        if not special:
            return list(text.encode("utf-8"))
        tokens: list[int] = []
        for part in self._splitter.split(text):
            marker = self._markers.get(part)
            tokens.extend(part.encode("utf-8") if marker is None else (marker,))
        return tokens

    def piece(self, token: int) -> bytes:
        """The byte itself; b'' for control tokens."""
        return bytes((token,)) if token < _BYTES else b""

    def chat_prompt(self, messages: Sequence[dict[str, str]]) -> str:
        """`<|role|>content` per message, then the assistant's marker."""
        return "".join(f"<|{m['role']}|>{m['content']}" for m in messages) + "<|assistant|>"


@dataclass(frozen=True, slots=True)
class Failure:
    """Makes every generation fail after `after_rounds` deltas (0: before the first)."""

    error: Exception
    after_rounds: int = 0


@dataclass(slots=True)
class FakeGenerator:
    """Answers with `reply(request)` cut into rounds: a scripted stand-in for the speculation loop.

    Round i yields `round_tokens[i % len(round_tokens)]` tokens, as if one fewer had been drafted
    and all were accepted. Rounds listed in `unverified_rounds` are marked as written by the draft
    model alone and carry no statistics. With `hold_after_rounds` a generation waits there until
    `release` is set. What happened is in `requests`, `active` and `closed`. One event loop owns an
    instance.
    """

    reply: Reply = field(default_factory=lambda: echo)
    round_tokens: tuple[int, ...] = (4,)
    model: str = "fake"
    context: int = 2048
    end_tokens: tuple[int, ...] = (_BYTES,)
    max_sequences: int = 64
    failure: Failure | None = None
    unverified_rounds: frozenset[int] = frozenset()
    hold_after_rounds: int | None = None
    is_ready: bool = True
    can_guide: bool | None = False
    release: asyncio.Event = field(default_factory=asyncio.Event)
    requests: list[GenerationRequest] = field(default_factory=list)
    active: int = 0
    closed: int = 0
    _idle: asyncio.Event = field(default_factory=asyncio.Event)
    _started: asyncio.Event = field(default_factory=asyncio.Event)

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        """As `TokenGenerator.generate`; refuses `too_many_sequences` beyond `max_sequences`."""
        self.requests.append(request)
        if self.active >= self.max_sequences:
            raise GenerationError(
                "too_many_sequences", "all sequences of this device are in use", 1.0
            )
        self.active += 1
        self._idle.clear()
        self._started.set()
        try:
            for index, delta in enumerate(self._deltas(request)):
                await self._obstacles(index)
                yield delta
                await asyncio.sleep(0)
        finally:
            self.active -= 1
            self.closed += 1
            if self.active == 0:
                self._idle.set()

    def ready(self) -> bool:
        """The `is_ready` switch."""
        return self.is_ready

    def model_name(self) -> str:
        """The configured `model`."""
        return self.model

    def context_tokens(self) -> int:
        """The configured `context`."""
        return self.context

    def guides(self) -> bool | None:
        """The `can_guide` switch."""
        return self.can_guide

    async def started(self) -> None:
        """Wait until a generation was asked for."""
        await self._started.wait()

    async def idle(self) -> None:
        """Wait until no generation is open (at least one must have been)."""
        await self._idle.wait()

    async def _obstacles(self, index: int) -> None:
        if self.hold_after_rounds is not None and index >= self.hold_after_rounds:
            await self.release.wait()
        if self.failure is not None and index >= self.failure.after_rounds:
            raise self.failure.error

    def _deltas(self, request: GenerationRequest) -> list[Delta]:
        tokens, finish = self._output(request)
        deltas: list[Delta] = []
        start = 0
        while start < len(tokens):
            size = max(1, self.round_tokens[len(deltas) % len(self.round_tokens)])
            deltas.append(self._delta(len(deltas), tokens[start : start + size]))
            start += size
        if not deltas or finish is FinishReason.END_TOKEN:
            return [*deltas, self._delta(len(deltas), (), finish)]
        deltas[-1] = self._delta(len(deltas) - 1, deltas[-1].tokens, finish)
        return deltas

    def _output(self, request: GenerationRequest) -> tuple[tuple[int, ...], FinishReason]:
        tokens = tuple(self.reply(request))
        finish = FinishReason.END_TOKEN
        if not request.ignore_end_tokens:
            ends = [i for i, token in enumerate(tokens) if token in self.end_tokens]
            tokens = tokens[: ends[0]] if ends else tokens
        room = self.context - len(request.prompt_tokens)
        if len(tokens) >= min(request.max_tokens, room):
            finish = (
                FinishReason.LENGTH if request.max_tokens <= room else FinishReason.CONTEXT_FULL
            )
        return tokens[: max(0, min(request.max_tokens, room))], finish

    def _delta(
        self, index: int, tokens: tuple[int, ...], finish: FinishReason | None = None
    ) -> Delta:
        verified = index not in self.unverified_rounds
        drafted = max(0, len(tokens) - 1)
        stats = RoundStats(
            draft_tokens=drafted,
            accepted_tokens=drafted,
            draft_seconds=0.004,
            round_trip_seconds=0.02,
            queue_seconds=0.001,
            compute_seconds=0.01,
            uplink_bytes=24 + 4 * drafted,
            downlink_bytes=28,
        )
        return Delta(tokens, verified, stats if verified else None, finish)


def echo(request: GenerationRequest) -> Sequence[int]:
    """Reply: the prompt's own bytes again, without its control tokens."""
    return tuple(token for token in request.prompt_tokens if token < _BYTES)


def say(text: str | bytes) -> Reply:
    """Reply: always this text."""
    data = text.encode("utf-8") if isinstance(text, str) else text
    return lambda _request: tuple(data)
