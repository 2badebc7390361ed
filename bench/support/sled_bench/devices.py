"""A device as a bench replays it: recorded drafts, the edge's own choice of the draft length, and the time that drafting takes.

As the edge does, it drafts ahead while a verdict is under way: the work is of use when the whole draft was accepted and the
verdict's own token is the one that the draft model expected. What is done by then may be sent before the verdict.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass

from sled_bench.trace import DRAFT_TOKENS, Text
from sled_speculation.draft_length import DraftLengthController
from sled_speculation.draft_length_policy import (
    RUN_TOKENS,
    DraftLengthPolicy,
    DraftLengthSettings,
    FixedDraftLength,
)


@dataclass(frozen=True, slots=True)
class DeviceTiming:
    """What a device and its way to the server take."""

    name: str
    token_seconds: float
    round_trip_seconds: float
    jitter: float = 0.1
    """Both vary by this share, evenly."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """A draft that counts on the whole one before it and on `follows_token`. `at` is how much will be written by then, and
    `run_tokens` may be written from there on; it is with the server `seconds` after the draft before it.
    """

    at: int
    follows_token: int
    tokens: tuple[int, ...]
    sure: tuple[float, ...]
    run_tokens: int
    seconds: float


class ReplayingDevice:
    """One device with one text at a time, from `texts`. With `most_tokens` 0 it only asks for tokens, and the server sends
    them without being asked again: no way back and forth lies between two of them. `fixed` drafts are all of that length.
    `lengths` is what it has learnt of the draft length before, if anything.
    """

    def __init__(
        self,
        timing: DeviceTiming,
        texts: Sequence[Text],
        number: int,
        most_tokens: int,
        *,
        heeds_hints: bool = True,
        fixed: bool = False,
        lengths: DraftLengthPolicy | None = None,
    ) -> None:
        self.timing = timing
        self._texts = texts
        self.text_number = number % len(texts)
        self._most = most_tokens
        self._heeds_hints = heeds_hints
        self._fixed = fixed
        self._rng = random.Random(number)
        self.lengths = lengths or _policy(most_tokens, fixed=fixed)
        self._hint = most_tokens
        self._ahead = 0
        self._drafted_for = 0.0
        self._sent: tuple[int, ...] = ()
        self._asks = True
        self._follows = False
        self.sure: tuple[float, ...] = ()
        self.written = 0

    @property
    def text(self) -> Text:
        """The text that it writes."""
        return self._texts[self.text_number]

    @property
    def over(self) -> bool:
        """Nothing of the text is left to draft."""
        return self.written + 1 >= len(self.text.tokens)

    def begin_next(self) -> None:
        """Turn to another text."""
        self.text_number = (self.text_number + 7) % len(self._texts)
        self.written = self._ahead = 0

    @property
    def run_on(self) -> bool:
        """The device has chosen not to draft for so long."""
        return not self._sent and self.lengths.plain_tokens > 0

    @property
    def run_tokens(self) -> int:
        """Tokens that the server may write from this round on before it must ask."""
        wanted = (0 if self._sent else self.lengths.plain_tokens) or RUN_TOKENS
        return self._at_most(wanted, self.written)

    def _at_most(self, tokens: int, at: int) -> int:
        return min(tokens, len(self.text.tokens) - at - 1)

    def draft(self) -> tuple[tuple[int, ...], float]:
        """The next draft, and the seconds until the server has it."""
        self._asks, self._follows = True, False
        if not self._most:
            self._sent = self.sure = ()
            return (), 0.0
        if not self.written:
            # As the edge does: its draft model reads the prompt while the verifier does.
            self._sent = self.sure = ()
            self._drafted_for = 0.0
            return (), self._varied(self.timing.round_trip_seconds)
        self._sent, self.sure = self._chosen(self.written, self.lengths)
        made = max(0, len(self._sent) - self._ahead)
        self._drafted_for = self._varied(made * self.timing.token_seconds)
        return self._sent, self._drafted_for + self._varied(self.timing.round_trip_seconds)

    def ahead(self) -> Ahead | None:
        """What it drafts while the server has this draft, where that leads anywhere; a device with a fixed length waits."""
        expected_at = self.written + len(self._sent)
        if (
            self._fixed
            or not self._most
            or not self._asks
            or expected_at + 2 >= len(self.text.tokens)
        ):
            return None
        # A policy of its own, as in the edge: the one of this round is still to learn from the verdict.
        at = expected_at + 1
        tokens, sure = self._chosen(at, copy.copy(self.lengths))
        if not tokens:
            return None
        drafted = self._varied((1 + len(tokens)) * self.timing.token_seconds)
        # Behind a draft that was sent ahead itself lies the way of the verdict before it, and its own.
        way = self._varied(self.timing.round_trip_seconds) if self._follows else 0.0
        expected = self.text.drafts[expected_at][0]
        run_tokens = self._at_most(RUN_TOKENS, at)
        return Ahead(at, expected, tokens, sure, run_tokens, way + drafted)

    def follow(self, ahead: Ahead, next_token: int) -> bool:
        """Whether the draft that was sent ahead follows on what is written, and is the one that the server has now."""
        if self.written != ahead.at or next_token != ahead.follows_token:
            return False
        self._asks = self._follows = True
        self._sent, self.sure = ahead.tokens, ahead.sure
        self._drafted_for = 0.0
        return True

    def _chosen(
        self, at: int, lengths: DraftLengthPolicy
    ) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """As much of the recorded draft as the device chooses to make."""
        text = self.text
        left = len(text.tokens) - at
        wanted = lengths.limit(self._hint if self._heeds_hints else None, left)
        sure = text.confidences[at] if text.confidences else ()
        count = min(wanted, 1)
        while count < min(wanted, len(text.drafts[at])) and (
            not sure or lengths.keep_drafting(sure[:count])
        ):
            count += 1
        return text.drafts[at][:count], tuple(sure[:count])

    def take(
        self,
        accepted: int,
        next_token: int,
        verified: int,
        hint: int,
        waited: float,
        goes_on: bool = False,
    ) -> tuple[int, ...]:
        """What a verdict brought, `waited` seconds after the draft was with the server. Where the server `goes_on`, the next one
        comes without a draft.

        Raises:
            ValueError: it is not the text.
        """
        output = (*self._sent[:accepted], next_token)
        end = self.written + len(output)
        if output != self.text.tokens[self.written : end]:
            raise ValueError(f"not the text that the target is held to, at token {self.written}")
        # Behind a draft that was sent ahead, drafting began when the verdict before it had arrived.
        away = waited + (0.0 if self._follows else self.timing.round_trip_seconds)
        self.written = end
        self._hint = min(hint, self._most)
        if self._most and self._asks:
            self.lengths.observe(
                len(self._sent), accepted, self._drafted_for, away, self.sure, verified, waited
            )
            self._ahead = self._drafted_ahead(accepted, next_token, away)
        elif self._most:
            self.lengths.observe_run(waited)
        if goes_on:
            self._sent = self.sure = ()
            self._ahead, self._asks = 0, False
        return output

    def _drafted_ahead(self, accepted: int, next_token: int, away: float) -> int:
        """Tokens of the next draft that are there already; the token that was expected had to be drafted, too."""
        expected = self.text.drafts[self.written - 1][0]
        if not self._sent or accepted < len(self._sent) or expected != next_token:
            return 0
        if not self.timing.token_seconds:
            return DRAFT_TOKENS
        return max(0, int(away / self.timing.token_seconds) - 1)

    def _varied(self, seconds: float) -> float:
        return seconds * (1 + self.timing.jitter * (2 * self._rng.random() - 1))


def _policy(most_tokens: int, *, fixed: bool) -> DraftLengthPolicy:
    if fixed:
        return FixedDraftLength(most_tokens)
    return DraftLengthController(DraftLengthSettings(max_tokens=most_tokens))
