"""From logits to the distribution that is sampled: penalty, temperature, top-k, top-p, min-p, in this order.

The same code serves target and drafter, so that both mean the same by every parameter. Must not draw random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sled_protocol.selection import largest_ids
from sled_speculation.sampling import SamplingParams

Row = NDArray[np.floating[Any]]
"""Logits of one position, [vocab]."""


class UnusableLogits(ValueError):
    """A row of logits has NaN, has plus infinity, or has no finite entry: no distribution follows from it."""


class TokenSet:
    """The distinct tokens of a growing sequence, for the repetition penalty. Adding is O(1), reading is O(1)."""

    __slots__ = ("_array", "_members", "_size")

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self._members: set[int] = set()
        self._array = np.zeros(64, np.int64)
        self._size = 0
        self.extend(tokens)

    def add(self, token: int) -> None:
        """Add one token; known ones change nothing."""
        if token in self._members:
            return
        self._members.add(token)
        if self._size == self._array.size:
            self._array = np.concatenate((self._array, np.zeros_like(self._array)))
        self._array[self._size] = token
        self._size += 1

    def extend(self, tokens: Iterable[int]) -> None:
        """Add many tokens."""
        for token in tokens:
            self.add(token)

    @property
    def ids(self) -> NDArray[np.int64]:
        """The distinct tokens [n] in order of first appearance; a view that is valid until the next `add`."""
        return self._array[: self._size]

    def copy(self) -> TokenSet:
        """An independent set with the same tokens."""
        other = TokenSet.__new__(TokenSet)
        other._members = self._members.copy()
        other._array = self._array.copy()
        other._size = self._size
        return other

    def __len__(self) -> int:
        return self._size

    def __contains__(self, token: object) -> bool:
        return token in self._members


def penalised(logits_row: Row, params: SamplingParams, seen_tokens: TokenSet) -> Row:
    """Logits [vocab] after the repetition penalty (Keskar et al. 2019, section 4.1, with the sign handled).

    Positive logits of seen tokens are divided by the penalty, negative ones multiplied. The input is returned itself when
    the penalty is off, and never changed. Seen tokens outside the row are ignored (a drafter's row may be shorter).
    """
    if params.repetition_penalty == 1 or not len(seen_tokens):
        return logits_row
    ids = seen_tokens.ids
    ids = ids[ids < logits_row.size]
    row = logits_row.copy()
    scores = row[ids]
    penalty = params.repetition_penalty
    with np.errstate(over="ignore"):
        row[ids] = np.where(scores > 0, scores / penalty, scores * penalty)
    return row


def greedy_token(logits_row: Row, params: SamplingParams, seen_tokens: TokenSet) -> int:
    """The most probable token after the repetition penalty; the lowest id among equals.

    Raises:
        UnusableLogits: see there.
    """
    row = penalised(logits_row, params, seen_tokens)
    token = int(row.argmax())
    # argmax stops at the first NaN, so this one look at the winner covers NaN anywhere, +inf and all -inf.
    _check_top(float(row[token]))
    return token


def target_probs(
    logits_row: Row, params: SamplingParams, seen_tokens: TokenSet
) -> NDArray[np.float64]:
    """The distribution to sample from, dense float64 [vocab], for a temperature above 0.

    Top-p (Holtzman et al. 2020, section 3.1) keeps the smallest set of most probable tokens whose mass, after top-k and
    renormalisation, reaches `top_p`; min-p (Nguyen et al. 2024) keeps tokens with at least `min_p` times the highest
    probability. In ties the lowest ids win. -inf means an impossible token.

    Raises:
        UnusableLogits: see there.
        ValueError: the temperature is 0.
    """
    if params.greedy:
        raise ValueError("temperature is 0: greedy decoding has no distribution to sample from")
    row = penalised(logits_row, params, seen_tokens)
    top = float(row.max())
    _check_top(top)
    ids = None
    if 0 < params.top_k < row.size:
        ids = largest_ids(row, params.top_k)
        row = row[ids]
    probs = row.astype(np.float64)
    probs -= top
    probs /= params.temperature
    np.exp(probs, out=probs)
    probs /= probs.sum()
    if params.top_p < 1:
        probs = _only(probs, _nucleus(probs, params.top_p))
    if params.min_p > 0:
        probs[probs < params.min_p * probs.max()] = 0
        probs /= probs.sum()
    if ids is None:
        return probs
    dense = np.zeros(logits_row.size)
    dense[ids] = probs
    return dense


def _check_top(top: float) -> None:
    if not math.isfinite(top):
        raise UnusableLogits(f"the largest logit of a row is {top}; it must be a finite number")


def _nucleus(probs: NDArray[np.float64], top_p: float) -> NDArray[np.int64]:
    """Ids of the smallest set of most probable tokens whose mass reaches `top_p`; the whole row when rounding stops short.

    A histogram finds the narrow band of probabilities in which the mass is reached, so only that band is sorted: a flat
    row of a large vocabulary, which a device can bring about at will, stays cheap.
    """
    # The bits of non-negative doubles order as the numbers do: exponent and six bits of the mantissa.
    bands = probs.view(np.int64) >> 46
    bands -= bands.min()
    masses = np.bincount(bands, weights=probs)
    reached = np.cumsum(masses[::-1])
    band = masses.size - 1 - min(int(np.searchsorted(reached, top_p)), masses.size - 1)
    above = np.flatnonzero(bands > band)
    inside = np.flatnonzero(bands == band)
    inside = inside[np.argsort(-probs[inside], kind="stable")]
    cumulative = np.cumsum(probs[inside]) + masses[band + 1 :].sum()
    return np.concatenate((above, inside[: int(np.searchsorted(cumulative, top_p)) + 1]))


def _only(probs: NDArray[np.float64], ids: NDArray[np.int64]) -> NDArray[np.float64]:
    kept = np.zeros_like(probs)
    kept[ids] = probs[ids]
    kept /= kept.sum()
    return kept
