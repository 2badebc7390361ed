"""Which tokens go into the next step: the continuous batcher. Pure: values in, a plan out; must not
touch engine or clock.

Rounds come first, so that a verification never waits behind a prompt; missing keys and values
(prompts, rebuilt sequences) are computed in chunks from the rest of the budget. While devices are
decoding, all chunks of a step together are capped, which bounds what a long prompt adds to anyone's
round; and a small reserve keeps prompts moving under load. The idea of mixing chunks with decoding
is Sarathi-Serve's (Agrawal et al. 2024, section 4).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

AGEING = 1.0
"""Seconds of deadline that one second of later arrival costs: after waiting as long as a deadline,
a work precedes all newcomers.
"""

BACKLOG_SECONDS_PER_TOKEN = 0.01
"""Seconds of deadline that one uncomputed prefix token costs: short prompts pass long ones, which
is what a mix of both waits least with, and ageing brings a prompt of 1,000 tokens to the front
within five seconds.
"""


class Held(enum.Enum):
    """Why a work is not in a step."""

    STEP_FULL = "step_full"
    """More urgent rounds took the step's tokens."""
    PREFILL_SHARE_USED = "prefill_share_used"
    """More urgent prompts took the tokens that prompts may have in this step."""
    NO_SLOT = "no_slot"
    """Every slot of the engine belongs to a sequence that is in use."""
    WAITS_FOR_PREFIX = "waits_for_prefix"
    """Another sequence is computing the same prefix; copying it is cheaper than computing it twice.
    """


@dataclass(frozen=True, slots=True)
class Work:
    """What one resident sequence waits for.

    `backlog` counts prefix tokens without keys and values; `round_tokens` is 1 + the draft tokens
    to verify, or 0 when no round waits. `arrived` and `deadline` are on one clock, in seconds.
    `weight` is at least 1; whatever theirs, a work precedes all newcomers after half its deadline.
    """

    key: int
    backlog: int
    round_tokens: int
    arrived: float
    deadline: float
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class StepBudget:
    """Tokens a step may take: `step_tokens` in all.

    `prefill_tokens` caps prompt chunks while rounds are being decoded; `prefill_reserve_tokens` of
    them are kept free of rounds when prompts wait. `step_tokens - prefill_reserve_tokens` must hold
    the longest round.
    """

    step_tokens: int
    prefill_tokens: int
    prefill_reserve_tokens: int


@dataclass(frozen=True, slots=True)
class Share:
    """One sequence's part of a step: so many backlog tokens, then its round (0 = not yet)."""

    key: int
    backlog_tokens: int
    round_tokens: int


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Shares in order of urgency, and why the others are held back."""

    shares: tuple[Share, ...]
    held: tuple[tuple[int, Held], ...]


def urgency(work: Work) -> float:
    """Sort key, smallest first: the deadline (nearer by the weight), plus the arrival so that no
    stream of short deadlines starves a long one, plus the size of a backlog.
    """
    deadline = work.arrived + (work.deadline - work.arrived) / work.weight
    return deadline + AGEING * work.arrived + BACKLOG_SECONDS_PER_TOKEN * work.backlog


def plan_step(works: Sequence[Work], budget: StepBudget, *, decoding: bool) -> StepPlan:
    """Fill one step. At most one share per work; `works` must hold each key once.

    `decoding` says that rounds are to be expected during this step even if none waits now.
    """
    ordered = sorted(works, key=urgency)
    rounds = [work for work in ordered if work.backlog == 0 and work.round_tokens > 0]
    backlogged = [work for work in ordered if work.backlog > 0]
    shares: list[Share] = []
    held: list[tuple[int, Held]] = []
    reserve = min(budget.prefill_reserve_tokens, sum(work.backlog for work in backlogged))
    left = budget.step_tokens - reserve
    for work in rounds:
        if work.round_tokens <= left:
            left -= work.round_tokens
            shares.append(Share(work.key, 0, work.round_tokens))
        else:
            held.append((work.key, Held.STEP_FULL))
    left += reserve
    if rounds or decoding:
        left = min(left, budget.prefill_tokens)
    for work in backlogged:
        tokens = min(work.backlog, left)
        if tokens == 0:
            held.append((work.key, Held.PREFILL_SHARE_USED))
            continue
        left -= tokens
        finishes = tokens == work.backlog and 0 < work.round_tokens <= left
        if finishes:
            left -= work.round_tokens
        shares.append(Share(work.key, tokens, work.round_tokens if finishes else 0))
    return StepPlan(tuple(shares), tuple(held))
