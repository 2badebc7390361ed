"""Picking the largest entries of a vocabulary-sized row without sorting it. Pure numpy, no policy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK = 64


def largest_ids(values: NDArray[np.floating[Any]], count: int) -> NDArray[np.int64]:
    """Ids of the `count` largest of `values` [n], ascending; among equals the lowest ids win.

    `values` holds no NaN. At most n ids come back, none when `count` is below 1.
    """
    if count < 1:
        return np.zeros(0, dtype=np.int64)
    if count >= values.size:
        return np.arange(values.size, dtype=np.int64)
    candidates = _candidates(values, count)
    kept = values[candidates]
    threshold = np.partition(kept, kept.size - count)[kept.size - count]
    above = candidates[kept > threshold]
    equal = candidates[kept == threshold][: count - above.size]
    ids = np.concatenate((above, equal))
    ids.sort()
    return ids


def _candidates(values: NDArray[np.floating[Any]], count: int) -> NDArray[np.int64]:
    """Ids, ascending, among which the `count` largest are.

    The count-th largest of the blocks' maxima bounds the count-th largest value from below, because those maxima are
    `count` values themselves. One pass over the row and a small partition replace a partition of the whole row.
    """
    blocks = values.size // _BLOCK
    if blocks < 4 * count:
        return np.arange(values.size, dtype=np.int64)
    maxima = values[: blocks * _BLOCK].reshape(blocks, _BLOCK).max(axis=1)
    bound = np.partition(maxima, blocks - count)[blocks - count]
    return np.flatnonzero(values >= bound)
