"""Randomness as a pure function of (seed, position, purpose), so that no verdict depends on the batch. Keeps no state.

Counter-based in the sense of Salmon et al. 2011 ("Parallel random numbers: as easy as 1, 2, 3"): the words are absorbed one
by one with the finaliser of SplitMix64 (Steele, Lea and Flood 2014).
"""

from __future__ import annotations

import enum
from typing import Final

import numpy as np
from numpy.typing import NDArray

_MASK: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15
_FIRST: Final = 0xBF58476D1CE4E5B9
_SECOND: Final = 0x94D049BB133111EB
_ONE: Final = np.uint64(1)
_WORD_GOLDEN, _WORD_FIRST, _WORD_SECOND = (np.uint64(n) for n in (_GOLDEN, _FIRST, _SECOND))
_SHIFTS: Final = (np.uint64(30), np.uint64(27), np.uint64(31))


class Purpose(enum.IntEnum):
    """What a random number decides. Numbers of different purposes are independent."""

    DRAFT = 1
    """Which token the drafter proposes in rejection mode."""
    ACCEPT = 2
    """Whether a draft token is accepted in rejection mode."""
    RECOVER = 3
    """Which token of the residual replaces a rejected one."""
    TARGET = 4
    """Which token the target itself takes: the bonus token, and every token in match mode."""
    BONUS = 4


def _mix(word: int) -> int:
    word = (word ^ word >> 30) * _FIRST & _MASK
    word = (word ^ word >> 27) * _SECOND & _MASK
    return word ^ word >> 31


def _key(seed: int, position: int, purpose: Purpose, round_start: int) -> int:
    key = _mix(seed + _GOLDEN & _MASK)
    for word in (purpose, position, round_start):
        key = _mix((key ^ word) + _GOLDEN & _MASK)
    return key


def uniform(seed: int, position: int, purpose: Purpose, round_start: int = 0) -> float:
    """A uniform number in [0, 1) with 53 bits.

    Args:
        seed: the sequence's seed, unsigned 64 bits.
        position: number of tokens of prompt + committed (+ earlier draft tokens) before the token that is chosen.
        purpose: what the number decides.
        round_start: for `Purpose.DRAFT` the position at which the round starts. A rejected draft's tail is drafted again in
            the next round; with the same number again, a draft length chosen in view of the first attempt would
            favour some tokens. Otherwise 0.
    """
    return (_key(seed, position, purpose, round_start) >> 11) * 2.0**-53


def uniform_by_token(
    seed: int, position: int, purpose: Purpose, tokens: NDArray[np.int64]
) -> NDArray[np.float64]:
    """One uniform number in (0, 1] for each of `tokens` [n]: the same for a token, whatever the other tokens are."""
    word = tokens.astype(np.uint64)
    word += _ONE
    word *= _WORD_GOLDEN
    word += np.uint64(_key(seed, position, purpose, 0))
    word ^= word >> _SHIFTS[0]
    word *= _WORD_FIRST
    word ^= word >> _SHIFTS[1]
    word *= _WORD_SECOND
    word ^= word >> _SHIFTS[2]
    # All 64 bits, because the smallest numbers decide for the least probable tokens.
    uniforms = word.astype(np.float64)
    uniforms += 0.5
    uniforms *= 2.0**-64
    return uniforms
