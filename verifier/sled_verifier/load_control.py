"""Load-aware verification: how many tokens of each draft a step verifies, and which draft length
each device is told. Must not run anything or read a clock.

One object per backend, whatever its shape: it is told what steps took and what verdicts said, and
is asked before each step. The maths is `sled_speculation.trimming`; what is kept here is the state
that it needs: step cost, acceptance, and how busy the engine is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sled_speculation.sampling import AcceptanceMode, SamplingParams
from sled_speculation.step_cost import StepCost, StepShape
from sled_speculation.step_cost_estimate import StepCostEstimate
from sled_speculation.trimming import (
    NOTHING_PAYS,
    DraftedRound,
    StepFrame,
    paying_length_at,
    price_of,
    survival_of,
    trim,
)
from sled_verifier.acceptance_book import AcceptanceBook
from sled_verifier.engine.base import EngineInfo
from sled_verifier.rounds import DraftRequest, OpenRequest, RoundVerdict

MEMORY = 0.98
"""Weight that all older steps keep at each new one: an average over about the last fifty."""
MIN_STEPS = 20
"""Steps with rounds after which the engine's pace is believed."""
PROBE_ROUNDS = 64
"""A sequence whose drafts do not pay is given a chance after so many rounds: acceptance can only be
learnt by verifying. One step in so many has such chances, for all who wait for one: the first draft token of a step may be
the dearest.
"""
LOOK_ROUNDS = 4 * PROBE_ROUNDS
"""The same where nothing seems to pay: it may be the cost of a step that is misjudged, and steps without drafts cannot tell."""
CHECK_STEPS = 48
"""After so many steps with drafts one goes without, where drafts are dear: what they add to a step is known only beside what it
costs without them, and on shared machines that changes.
"""
FIRST_CHECK_STEPS = 4
"""The same at a load of which not even `KNOWN_STEPS` steps without drafts are known."""
KNOWN_STEPS = 8
DEAR = 0.3
"""The price from which on it is worth a step to look."""
REACH = 2
"""A step is at most so many times as large as the largest that was seen at its load: what a larger one costs is a guess, and the
best of many guesses is a lucky one.
"""
HINT_STRETCH = 1.5
"""Devices are told a length so many times the one that pays: what is too much is trimmed when the step is known, what is too little
leaves the step empty. Where not even one token pays, they are told so all the same.
"""
MOST_UNLEARNT_STEPS = 200
"""So many steps with prompts in a row, and what steps cost is learnt from them, too."""
DEADLINE_SHARE = 0.9
"""Part of the time up to a deadline that a step may fill; the rest is for the way back."""


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """What is switched on; everything but for comparison in a bench."""

    trim: bool = True
    """Verify only draft tokens that pay, and tell devices the length that does."""
    meet_deadlines: bool = True
    """Verify fewer draft tokens when a step with all of them would outlast a deadline."""
    foretell: bool = True
    """Let steps carry along sequences whose device is drafting, see `foretold`."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A round that could be in the next step; `deadline` by the backend's clock, in seconds."""

    key: int
    draft: DraftRequest
    sampling: SamplingParams
    context_tokens: int
    deadline: float


class LoadControl:
    """The load policy of one backend. One caller at a time."""

    def __init__(self, max_draft_tokens: int, settings: LoadSettings | None = None) -> None:
        self.settings = settings or LoadSettings()
        self.rectangular = False
        """See `EngineInfo.rectangular`."""
        self.even = False
        """See `EngineInfo.even_steps`."""
        self.steps = StepCostEstimate()
        self.book = AcceptanceBook()
        self._max = max_draft_tokens
        self._rounds_seen = 0
        self._sizes: set[int] = set()
        self._steps_with_prompts = 0
        self._steps_with_drafts = 0
        self._steps_without_probe = 0
        self._busy = 0.0
        self._elapsed = 0.0
        self._weight = 0.0
        self._last_end: float | None = None
        self._rounds = 0.0
        self._context = 0.0
        self._price = 0.0
        self._plain: dict[int, int] = {}

    # ---- what the backend tells

    def serves(self, info: EngineInfo) -> None:
        """What kind of engine the steps run on."""
        self.rectangular, self.even = info.rectangular, info.even_steps

    def measured(self, samples: Iterable[tuple[StepShape, float]]) -> None:
        """Steps that were run at the start to learn what they cost."""
        self.steps.load(samples)

    def opened(self, key: int, request: OpenRequest) -> None:
        """A sequence begins."""
        self.book.open(key, request.device_id, request.draft_model)
        self._plain[key] = 0

    def closed(self, key: int) -> None:
        """It is over; unknown keys are ignored."""
        self.book.close(key)
        self._plain.pop(key, None)

    def stepped(self, shape: StepShape, rounds: int, seconds: float, now: float) -> None:
        """A step ended at `now`; `rounds` of its sequences had a round in it."""
        self._learn(shape, rounds, seconds)
        since = seconds if self._last_end is None else now - self._last_end
        interval = max(seconds, min(since, seconds + _LONGEST_GAP_SECONDS))
        self._last_end = now
        self._busy = self._busy * MEMORY + seconds
        self._elapsed = self._elapsed * MEMORY + interval
        self._weight = self._weight * MEMORY + 1
        if rounds:
            self._steps_with_drafts = 0 if shape.plain else self._steps_with_drafts + 1
            self._steps_without_probe += 1
            step = max(1 / (self._rounds_seen + 1), 1 - MEMORY)
            self._rounds_seen += 1
            self._rounds += step * (rounds - self._rounds)
            self._context += step * (shape.context_tokens - self._context)
        self._price = self._present_price()

    def judged(self, key: int, draft: DraftRequest, verdict: RoundVerdict) -> None:
        """A round got its verdict."""
        self.book.observe(key, verdict.verified, verdict.accepted, confidences_of(draft))
        if key in self._plain:
            self._plain[key] = 0 if verdict.verified else self._plain[key] + 1

    # ---- what the backend asks

    def choose(
        self,
        candidates: Sequence[Candidate],
        *,
        prefill_tokens: int,
        max_draft_tokens: int,
        now: float,
    ) -> tuple[int, ...]:
        """How many draft tokens of each candidate the next step verifies; the earlier ones have the say among
        equals.

        `prefill_tokens` of prompts will share the step, which has room for `max_draft_tokens`
        beside them and one token for each candidate.
        """
        lengths = [len(candidate.draft.draft_tokens) for candidate in candidates]
        cost = self.steps.cost()
        idle = self._idle_seconds() if self.settings.trim else math.inf
        frame = StepFrame(
            rounds=len(candidates),
            prefill_tokens=prefill_tokens,
            context_tokens=sum(candidate.context_tokens for candidate in candidates),
            idle_seconds=idle,
            max_draft_tokens=min(max_draft_tokens, self._reach(len(candidates))),
            max_seconds=self._patience(candidates, now),
            rectangular=self.rectangular,
            even=self.even,
        )
        fits = sum(lengths) <= max_draft_tokens
        if cost is None or (fits and idle == math.inf and frame.max_seconds == math.inf):
            return _in_turn(lengths, max_draft_tokens)
        if self._check_due(len(candidates)):
            return (0,) * len(candidates)
        trimmed = trim([self._drafted(candidate) for candidate in candidates], frame, cost)
        return self._with_probes(candidates, trimmed.verified, max_draft_tokens)

    def hint(self, key: int) -> int:
        """The draft length that pays for a sequence at the present load, 0 to the limit."""
        if not self.settings.trim or self._price == 0:
            return self._max
        length = paying_length_at(self.book.at_best(key), self._price**HINT_STRETCH, self._max)
        return length or int(self._probe_due(key))

    @property
    def foretells(self) -> bool:
        """Whether steps carry sequences along: not where one row of one sequence costs what it costs for all."""
        return self.settings.foretell and not self.rectangular

    @property
    def price(self) -> float:
        """The survival that a draft token needs at the present load: 0 when anything pays."""
        return self._price

    # ---- inside

    def _learn(self, shape: StepShape, rounds: int, seconds: float) -> None:
        """A prompt's token costs less than a draft's, which needs logits and a verdict. Taken for one, it would make long drafts
        look cheap; so steps with prompts teach only while there are no others. Nor does a step teach for which the engine had to
        prepare itself first.
        """
        if self.even and shape.tokens not in self._sizes:
            self._sizes.add(shape.tokens)
            return
        if rounds >= shape.sequences:
            self._steps_with_prompts = 0
        else:
            self._steps_with_prompts += 1
        if self._steps_with_prompts == 0 or self._steps_with_prompts > MOST_UNLEARNT_STEPS:
            self.steps.observe(shape, seconds)

    def _idle_seconds(self) -> float:
        """Seconds per step that the engine lately had to spare; infinite until that is known."""
        if self._rounds_seen < MIN_STEPS:
            return math.inf
        return max(0.0, self._elapsed - self._busy) / self._weight

    def _reach(self, rounds: int) -> int:
        """Draft tokens of the largest step whose cost is more than a guess."""
        if not self.settings.trim:
            return _NO_BOUND
        return REACH * max(self.steps.most_tokens(rounds), rounds) - rounds

    def _patience(self, candidates: Sequence[Candidate], now: float) -> float:
        if not self.settings.meet_deadlines:
            return math.inf
        left = [candidate.deadline - now for candidate in candidates]
        return DEADLINE_SHARE * min((seconds for seconds in left if seconds > 0), default=math.inf)

    def _present_price(self) -> float:
        cost = self.steps.cost()
        idle = self._idle_seconds()
        if cost is None or idle == math.inf:
            return 0.0
        frame = StepFrame(
            rounds=max(1, round(self._rounds)),
            context_tokens=round(self._context),
            idle_seconds=idle,
            rectangular=self.rectangular,
        )
        survival = survival_of([self.book.overall()] * self._max)
        price = price_of(survival, frame.rounds, frame, cost)
        return price if price != NOTHING_PAYS else self._price_for_one(frame, cost)

    def _price_for_one(self, frame: StepFrame, cost: StepCost) -> float:
        """Drafts do not pay for the average: the acceptance with which they would for one sequence."""
        for rate in _HIGHER_RATES:
            if price_of(survival_of([rate] * self._max), 1, frame, cost) != NOTHING_PAYS:
                return rate
        return NOTHING_PAYS

    def _drafted(self, candidate: Candidate) -> DraftedRound:
        """The two views of `trimming`: a drawn token's own confidence may be looked at only where
        the output does not depend on what is verified.
        """
        draft, sampling = candidate.draft, candidate.sampling
        count = len(draft.draft_tokens)
        past = survival_of(self.book.by_position(candidate.key, count))
        stated = confidences_of(draft)
        if not stated:
            return DraftedRound(past, past)
        survival = survival_of(self.book.by_confidence(candidate.key, stated))
        if sampling.greedy or sampling.mode is AcceptanceMode.MATCH:
            return DraftedRound(survival, survival)
        return DraftedRound(survival, past)

    def _check_due(self, rounds: int) -> bool:
        """The engine's present cost without drafts shall be looked at, with so many rounds; no draft has a say in it."""
        if not self.settings.trim or not DEAR <= self._price < NOTHING_PAYS:
            return False
        # Not of the mean load: short of a full house for ever, it would be known for another class of loads.
        known = self.steps.plain_steps(rounds) >= KNOWN_STEPS
        return self._steps_with_drafts >= (CHECK_STEPS if known else FIRST_CHECK_STEPS)

    def _probe_due(self, key: int) -> bool:
        rounds = LOOK_ROUNDS if self._price == NOTHING_PAYS else PROBE_ROUNDS
        return min(self._steps_without_probe, self._plain.get(key, 0)) >= rounds

    def _with_probes(
        self, candidates: Sequence[Candidate], verified: Sequence[int], max_draft_tokens: int
    ) -> tuple[int, ...]:
        """One token of each draft that is due for a chance, where there is room."""
        room = max_draft_tokens - sum(verified)
        counts = list(verified)
        for place, candidate in enumerate(candidates):
            drafted = bool(candidate.draft.draft_tokens)
            if room > 0 and drafted and not counts[place] and self._probe_due(candidate.key):
                counts[place] = 1
                room -= 1
        if counts != list(verified):
            self._steps_without_probe = 0
        return tuple(counts)


def confidences_of(draft: DraftRequest) -> tuple[float, ...]:
    """What is known of each draft token before it is looked at, or what the device says of it.

    Of a distribution: the probability that it gives its own sample on average, the sum of its
    squares, which does not depend on the token that was drawn.
    """
    if draft.distributions:
        return tuple(float(np.square(d.probs()).sum()) for d in draft.distributions)
    return draft.confidences


def _in_turn(lengths: Sequence[int], room: int) -> tuple[int, ...]:
    """Everything, as far as it fits, the most urgent first."""
    counts = []
    for length in lengths:
        counts.append(min(length, max(room, 0)))
        room -= counts[-1]
    return tuple(counts)


_LONGEST_GAP_SECONDS = 1.0
_NO_BOUND = 1 << 30
_HIGHER_RATES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
