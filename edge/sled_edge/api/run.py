"""One generation on its way to a client: rounds of tokens in, rounds of text out.

Must not know either dialect.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import cast

from sled_edge.api.ask import Ask, Service
from sled_edge.api.refusal import Reason, Refusal, from_generation_error, internal
from sled_edge.api.speculation_report import SpeculationReport
from sled_edge.generation import Delta, FinishReason, GenerationError
from sled_edge.text import TextStream

SETTLE_SECONDS = 1.0


class Finish(enum.StrEnum):
    """Why a text ends."""

    END_TOKEN = "end_token"
    LENGTH = "length"
    CONTEXT_FULL = "context_full"
    STOP_STRING = "stop_string"


class Verified(enum.StrEnum):
    """How much of a text the target model stands behind."""

    TRUE = "true"
    PARTIAL = "partial"
    FALSE = "false"


@dataclass(frozen=True, slots=True)
class Part:
    """One output token and the text that is certain with it, possibly none."""

    token: int
    text: str
    verified: bool
    """False when the draft model alone wrote this token or any other of this text."""


@dataclass(frozen=True, slots=True)
class Step:
    """The parts of one round; the last step has `finish`, and as `rest` text of no one token."""

    parts: tuple[Part, ...]
    rest: str = ""
    verified: bool = True
    finish: Finish | None = None

    @property
    def text(self) -> str:
        """All text of the step."""
        return "".join(part.text for part in self.parts) + self.rest


class Run:
    """Runs an `Ask` once. Counters are final after the last step.

    `completion_tokens` goes up to the token that completed a stop string, wherever its round ended,
    so neither text nor usage depends on how tokens were drafted.
    """

    def __init__(self, service: Service, ask: Ask) -> None:
        self.ask = ask
        self.report = SpeculationReport()
        self.completion_tokens = 0
        self.unverified_tokens = 0
        self.finish: Finish | None = None
        self._service = service
        self._text = TextStream(ask.stops, keep_stop=ask.keep_stop)
        self._held_unverified = False

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self.ask.request.prompt_tokens)

    @property
    def verified(self) -> Verified:
        """Of all tokens so far."""
        if self.unverified_tokens == 0:
            return Verified.TRUE
        whole = self.unverified_tokens == self.completion_tokens
        return Verified.FALSE if whole else Verified.PARTIAL

    async def steps(self) -> AsyncGenerator[Step, None]:
        """Generate; ends after the step with `finish`, or when closed. To be iterated by one task.

        Raises:
            Refusal: before the first step or between two.
        """
        metrics = self._service.metrics
        started = time.monotonic()
        outcome = Reason.INTERNAL.value
        first = True
        metrics.generation_started(self.prompt_tokens)
        deltas = self._service.generator.generate(self.ask.request)
        try:
            while self.finish is None:
                delta = await self._next(deltas, started)
                metrics.observe_delta(delta)
                if first:
                    metrics.first_token(time.monotonic() - started)
                    first = False
                step = self._step(delta)
                if step.finish is not None:
                    outcome = step.finish.value
                    # Before handing out: a slow client must not keep the sequence.
                    await _settle(deltas, delta)
                yield step
        except Refusal as refusal:
            outcome = refusal.reason.value
            raise
        except (GeneratorExit, asyncio.CancelledError):
            if self.finish is None:
                outcome = Reason.CLIENT_GONE.value
            raise
        finally:
            await _close(deltas)
            metrics.generation_ended(outcome, time.monotonic() - started)

    async def _next(self, deltas: AsyncIterator[Delta], started: float) -> Delta:
        limit = self._service.settings.request_seconds
        left = limit - (time.monotonic() - started)
        try:
            async with asyncio.timeout(max(0.0, left)):
                return await anext(deltas)
        except GenerationError as error:
            raise from_generation_error(error) from error
        except TimeoutError as error:
            raise Refusal(
                Reason.DEADLINE_EXCEEDED, f"The text was not finished within {limit:g} seconds."
            ) from error
        except StopAsyncIteration as error:
            raise internal() from error

    def _step(self, delta: Delta) -> Step:
        if delta.round is not None:
            self.report.add(delta.round)
        parts: list[Part] = []
        for token in delta.tokens:
            parts.append(self._part(token, delta.verified))
            if self._text.stopped:
                break
        rest = ""
        if self._text.stopped:
            self.finish = Finish.STOP_STRING
        elif delta.finish is not None:
            rest = self._text.finish()
            self.finish = Finish.STOP_STRING if self._text.stopped else _FINISHES[delta.finish]
        verified = all(part.verified for part in parts) and not (rest and self._held_unverified)
        return Step(tuple(parts), rest, verified, self.finish)

    def _part(self, token: int, verified: bool) -> Part:
        self.completion_tokens += 1
        self.unverified_tokens += not verified
        text = self._text.push(self._service.tokenizer.piece(token))
        clean = verified and not self._held_unverified
        self._held_unverified = self._text.holding and not clean
        return Part(token, text, clean)


_FINISHES = {
    FinishReason.END_TOKEN: Finish.END_TOKEN,
    FinishReason.LENGTH: Finish.LENGTH,
    FinishReason.CONTEXT_FULL: Finish.CONTEXT_FULL,
}


async def _settle(deltas: AsyncIterator[Delta], last: Delta) -> None:
    """Let a loop that has said its last word run out, so that it can learn; cut any other off."""
    if last.finish is not None:
        ended = (StopAsyncIteration, GenerationError, TimeoutError)
        with contextlib.suppress(*ended):
            async with asyncio.timeout(SETTLE_SECONDS):
                await anext(deltas)
    await _close(deltas)


async def _close(deltas: AsyncIterator[Delta]) -> None:
    """Free the generation at once; iterators that are no generators have nothing to free."""
    if hasattr(deltas, "aclose"):
        await cast(AsyncGenerator[Delta, None], deltas).aclose()
