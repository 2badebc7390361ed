"""Which draft tokens a step verifies, and which draft length pays: goodput over a measured step cost. Pure; no clock.

A verifier that is the bottleneck should spend each second where it brings most output. A draft token brings its *survival*,
the probability that it and all before it are accepted, and costs what the step takes longer for it; the best set of tokens
has the highest goodput, output per second (Liu et al. 2024, "Optimizing speculative decoding for serving large language
models using goodput"), here over all sequences of the step at once. While the engine has time to spare, the seconds between
steps count too, so nearly everything that was drafted is worth verifying.

Why trimming leaves the output's distribution as it is. When the first k draft tokens of a sequence are verified and all are
accepted, the next token is the target's own at that position, a bonus token as after a draft of k tokens. Rejection sampling
is exact for every k that was fixed before token k was looked at (`acceptance`, rule 2): k may depend on what was drafted
before, on the distributions, on the past and on other sequences, but not on the drawn token k itself, nor on later ones, nor
on anything that the target says about them. Hence each round comes with two views of itself:

- `survival[i]`, in which entry i looks at draft tokens before i only, decides whether token i is verified: token i is in when
  its survival reaches the price of the step;
- `foreseen`, which looks at no draft token at all, is what the price is computed from.

Where the output is the same whatever is verified (greedy decoding, and `match` mode, in which the target samples without the
drafts), `survival[i]` may look at everything, and both views are one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sled_speculation.step_cost import StepCost

Survival = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DraftedRound:
    """One sequence's draft: float64 [draft tokens], never rising, each 0 to 1. See the module for what may be in them."""

    survival: Survival
    foreseen: Survival


@dataclass(frozen=True, slots=True)
class StepFrame:
    """What a step holds besides draft tokens, and its bounds.

    `idle_seconds` is the time that the engine lately had to spare per step (infinite: draft tokens cost nothing).
    `max_draft_tokens` is the room in the step, and
    `max_seconds` what the most urgent round can wait for; a step that takes longer even without drafts has missed it anyway.
    `rectangular`: the step costs what it would if every sequence had as many tokens as the longest, so all verify up to one length.
    `even`: only steps of even sizes, see `is_even`.
    """

    rounds: int
    prefill_tokens: int = 0
    context_tokens: int = 0
    idle_seconds: float = 0.0
    max_draft_tokens: int = 1_000_000
    max_seconds: float = math.inf
    rectangular: bool = False
    even: bool = False


@dataclass(frozen=True, slots=True)
class Trim:
    """`verified` [rounds] draft tokens of each round; `price` is the survival that a token needed to be among them."""

    verified: tuple[int, ...]
    price: float


def survival_of(acceptances: Sequence[float]) -> Survival:
    """The running product: float64 [n] from one acceptance probability for each draft token, given all before it."""
    return np.asarray(np.cumprod(np.asarray(acceptances, dtype=np.float64)), dtype=np.float64)


def is_even(tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which step sizes [n] an engine shall see that prepares itself for each new one: all up to 32, then eight between a power of
    two and the next. That is 64 sizes up to 512 tokens, and at most an eighth less than any.
    """
    grain = 1 << np.maximum(np.ceil(np.log2(np.maximum(tokens, 1))).astype(np.int64) - 4, 0)
    return np.asarray((tokens <= _SMALL_STEP) | (tokens % grain == 0), dtype=np.bool_)


def trim(rounds: Sequence[DraftedRound], frame: StepFrame, cost: StepCost) -> Trim:
    """Choose the draft tokens of one step; among equals those of earlier `rounds` come first."""
    if frame.rectangular:
        return _trim_to_one_length(rounds, frame, cost)
    foreseen = _falling([round_.foreseen for round_ in rounds])
    quote = _quote(foreseen, frame, cost)
    counts = [paying_length(round_.survival, quote.price) for round_ in rounds]
    one_view = all(round_.survival is round_.foreseen for round_ in rounds)
    most = quote.best if one_view else quote.room
    if sum(counts) > most:
        counts = _most_likely(rounds, counts, most)
    return Trim(tuple(counts), quote.price)


def price_of(foreseen: Survival, sequences: int, frame: StepFrame, cost: StepCost) -> float:
    """The survival that pays in a step in which so many sequences have such drafts, float64 [draft tokens] falling;
    `NOTHING_PAYS` when none does.
    """
    if frame.rectangular:
        counts = np.full(foreseen.size, sequences)
        return _quote_of_lengths(sequences * foreseen, counts, frame, cost).price
    return _quote(np.repeat(foreseen, sequences), frame, cost).price


def paying_length(survival: Survival, price: float) -> int:
    """How many draft tokens reach the price."""
    return int(np.searchsorted(-survival, -price, side="right"))


def paying_length_at(acceptance: float, price: float, most: int) -> int:
    """The same for draft tokens that are all accepted with one probability, up to `most` of them."""
    survival = 1.0
    for length in range(most):
        survival *= acceptance
        if survival < price:
            return length
    return most


@dataclass(frozen=True, slots=True)
class _Quote:
    """The survival that pays, how many of the foreseen tokens have it, and how many the step may hold."""

    price: float
    best: int
    room: int


def _trim_to_one_length(rounds: Sequence[DraftedRound], frame: StepFrame, cost: StepCost) -> Trim:
    """All drafts up to one length, which looks at no drawn token where `foreseen` does not."""
    lengths = np.array([round_.foreseen.size for round_ in rounds], dtype=np.int64)
    brought = np.zeros(int(lengths.max(initial=0)))
    for round_ in rounds:
        brought[: round_.foreseen.size] += round_.foreseen
    counts = np.array([int((lengths > place).sum()) for place in range(brought.size)])
    quote = _quote_of_lengths(brought, counts, frame, cost)
    return Trim(tuple(int(n) for n in np.minimum(lengths, quote.best)), quote.price)


def _quote_of_lengths(
    brought: NDArray[np.float64],
    counts: NDArray[np.int64],
    frame: StepFrame,
    cost: StepCost,
) -> _Quote:
    """The draft length of highest goodput: place i of all drafts is expected to bring `brought[i]` tokens and `counts[i]` drafts
    reach it.
    """
    fitting = int((np.cumsum(counts) <= max(frame.max_draft_tokens, 0)).sum())
    rows = max(frame.rounds, 1) * np.arange(1, fitting + 2)
    quote = _goodput(brought[:fitting], rows, frame, cost)
    if quote.best == 0:
        return quote
    last = quote.best - 1
    paid = float(brought[last]) if quote.best < brought.size else quote.price
    return _Quote(paid / float(counts[last]), quote.best, quote.room)


def _quote(foreseen: Survival, frame: StepFrame, cost: StepCost) -> _Quote:
    """The count of highest goodput, `foreseen` [n] falling."""
    most = min(foreseen.size, max(frame.max_draft_tokens, 0))
    quote = _goodput(foreseen[:most], max(frame.rounds, 1) + np.arange(most + 1), frame, cost)
    if 0 < quote.best < foreseen.size:
        return _Quote(float(foreseen[quote.best - 1]), quote.best, quote.room)
    return quote


def _goodput(
    brought: NDArray[np.float64],
    tokens: NDArray[np.int64],
    frame: StepFrame,
    cost: StepCost,
) -> _Quote:
    """The best of a row of choices: nothing, then one thing more each time, which brings `brought` [n] more output and makes the
    step one of `tokens` [n + 1]. The price is what the last thing has to bring if nothing more could be had.

    All are compared and not just the next one: where a second token costs a jump, a third may be nearly free. The best of
    many estimates is a lucky one, so it must be worth its time by a margin.
    """
    if not brought.size:
        return _Quote(0.0, 0, 0)
    whole, prefill_seconds = _seconds(tokens, frame, cost)
    room = int((whole <= max(frame.max_seconds, float(whole[0]))).sum()) - 1
    # Prompts that share the step pay for themselves.
    seconds = whole - prefill_seconds
    expected = max(frame.rounds, 1) + np.concatenate([[0.0], np.cumsum(brought[:room])])
    spare = math.isinf(frame.idle_seconds)
    rates = expected if spare else expected / (seconds[: room + 1] + frame.idle_seconds)
    if frame.even:
        even = is_even(tokens[: room + 1] + frame.prefill_tokens)
        even[0] = True  # how many sequences there are, nobody chooses
        rates = np.where(even, rates, 0.0)
    best = int(rates.argmax())
    least = 0.0 if spare else WORTHWHILE * float(rates[0] * (seconds[best] - seconds[0]))
    if best == 0 or float(expected[best] - expected[0]) < least:
        return _Quote(NOTHING_PAYS, 0, room)
    last = float(seconds[best] - seconds[best - 1])
    price = 0.0 if spare else min(float(brought[best - 1]), float(rates[best]) * last)
    return _Quote(price, best, room)


def _seconds(
    tokens: NDArray[np.int64], frame: StepFrame, cost: StepCost
) -> tuple[NDArray[np.float64], float]:
    """Seconds [n] of a step with so many tokens [n] beside its prompts, and those of them that its prompts add."""
    sequences = frame.rounds + (frame.prefill_tokens > 0)
    whole = cost.by_tokens(tokens + frame.prefill_tokens, sequences, frame.context_tokens)
    if not frame.prefill_tokens:
        return whole, 0.0
    alone = cost.by_tokens(tokens[:1], sequences, frame.context_tokens)
    return whole, float(whole[0] - alone[0])


def _falling(views: Sequence[Survival]) -> Survival:
    if not views:
        return np.zeros(0)
    return -np.sort(-np.concatenate(views))


def _most_likely(rounds: Sequence[DraftedRound], counts: Sequence[int], most: int) -> list[int]:
    """The `most` tokens of highest survival among the first `counts` of each round.

    Whether a token is among them depends on more likely ones only, hence on no later token of its own round.
    """
    owners = np.repeat(np.arange(len(rounds)), counts)
    survival = np.concatenate([r.survival[:n] for r, n in zip(rounds, counts, strict=True)])
    kept = owners[np.argsort(-survival, kind="stable")[: max(most, 0)]]
    return [int(n) for n in np.bincount(kept, minlength=len(rounds))]


_SMALL_STEP = 32
NOTHING_PAYS = math.inf
"""A price that no survival reaches."""
WORTHWHILE = 1.1
"""Draft tokens must bring so many times the output that their time would bring without drafts, since the cost of a step is known
to about a tenth: little is lost where they would have brought less, and no step is a loss because its cost was misjudged.
"""
