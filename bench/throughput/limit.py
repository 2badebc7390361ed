"""What a measured step cost and the recorded acceptance allow: the most output that a second can bring at one load. Pure.

Drafts of a fixed length were run without a load policy, so seconds of a step are known at some numbers of tokens, and
straight between them. A policy is a bar that a token's survival must reach: the survival by place alone, or by what the
drafter says of the token, corrected by how often that was right. Each is walked along the recorded texts, which gives
tokens verified and tokens written a round; the best of all is the limit. No policy that decides before the step what to
verify can know more than the drafter says, and the correction is learnt from the very texts that it is tried on.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from sled_bench.trace import DRAFT_TOKENS, Text, Trace

EDGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.995)
BARS = tuple(float(bar) for bar in np.arange(0.05, 1.0, 0.05))
Lengths = Callable[[Text, int], int]
"""How many draft tokens to verify after the first tokens of a text."""


def best_ratio(trace: Trace, step_seconds: Mapping[int, float], *, one_length: bool) -> float:
    """Output a second of the best policy over that without drafts. `step_seconds` are by draft tokens of each sequence, 0 among
    them. `one_length`: a step costs as much as if all had the longest draft, so nothing is saved by looking at each token.
    """
    lengths = sorted(step_seconds)
    costs = [step_seconds[length] for length in lengths]
    best = 1.0
    for policy in policies(trace, lengths[-1], one_length=one_length):
        written, verified = walked(trace, policy)
        seconds = float(np.interp(verified, lengths, costs))
        best = max(best, written * step_seconds[0] / seconds)
    return best


def policies(trace: Trace, most: int, *, one_length: bool) -> Iterator[Lengths]:
    """Every fixed length, and every bar for the survival that the drafter's word gives."""
    for length in range(1, most + 1):
        yield lambda text, at, length=length: min(length, len(text.drafts[at]))
    if one_length or not trace.texts[0].confidences:
        return
    survivals = [
        [_survival(trace, text, at) for at in range(len(text.tokens))] for text in trace.texts
    ]
    places = {id(text): n for n, text in enumerate(trace.texts)}
    for bar in BARS:

        def above(text: Text, at: int, bar: float = bar) -> int:
            survival = survivals[places[id(text)]][at]
            return min(most, int((survival >= bar).sum()))

        yield above


def walked(trace: Trace, policy: Lengths) -> tuple[float, float]:
    """Tokens written and draft tokens verified a round, along all texts."""
    rounds = written = verified = 0
    for text in trace.texts:
        at = 0
        while at + 1 < len(text.tokens):
            length = min(policy(text, at), len(text.tokens) - at - 1)
            agreed = accepted(text, at, length)
            rounds += 1
            written += agreed + 1
            verified += length
            at += agreed + 1
    return written / rounds, verified / rounds


def accepted(text: Text, at: int, length: int) -> int:
    """Of the draft after `at` tokens: how many of its first `length` are the text's own, from the first on."""
    draft = text.drafts[at][:length]
    for n, token in enumerate(draft):
        if token != text.tokens[at + n]:
            return n
    return len(draft)


def _survival(trace: Trace, text: Text, at: int) -> np.ndarray:
    table = _right_by_confidence(trace)
    return np.cumprod([table[bisect.bisect_right(EDGES, sure)] for sure in text.confidences[at]])


_TABLES: dict[int, Sequence[float]] = {}


def _right_by_confidence(trace: Trace) -> Sequence[float]:
    """How often a token is right, by what the drafter says of it, given that all before it were."""
    known = _TABLES.get(id(trace))
    if known is not None:
        return known
    right, seen = np.full(len(EDGES) + 1, 0.5), np.ones(len(EDGES) + 1)
    for text in trace.texts:
        for at in range(len(text.tokens) - DRAFT_TOKENS):
            agreed = accepted(text, at, DRAFT_TOKENS)
            for n in range(min(agreed + 1, DRAFT_TOKENS)):
                kind = bisect.bisect_right(EDGES, text.confidences[at][n])
                seen[kind] += 1
                right[kind] += n < agreed
    _TABLES[id(trace)] = table = list(right / seen)
    return table
