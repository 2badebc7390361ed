"""What "exactly the target's own" rests on for a llama.cpp model: a table of weight types and a
check on this machine.
"""

from __future__ import annotations

import logging
from typing import Final

import numpy as np

from sled_llamacpp import Chunk, Context

INVARIANT_WEIGHT_TYPES: Final = frozenset({"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"})
"""Weight types for which logits were measured to be independent of the batch (bench/exactness.py).
"""

_PROBE_TOKENS: Final = 24
_log = logging.getLogger(__name__)


def exactness_of(weight_types: frozenset[str], context: Context) -> str:
    """`bit-invariant`, or `approximate` when a weight type or this machine does not keep logits
    independent of the batch.

    Runs a few short passes on the empty `context` and leaves it empty. The check is short: it finds
    a processor or a build whose kernels differ, it does not replace the measurement.
    """
    others = weight_types - INVARIANT_WEIGHT_TYPES
    if others:
        _log.info("weights of type %s: logits depend on the batch", ", ".join(sorted(others)))
        return "approximate"
    if not _probe(context):
        _log.warning(
            "logits depend on the batch on this machine, although the weight types allow otherwise"
        )
        return "approximate"
    return "bit-invariant"


def _probe(context: Context) -> bool:
    """The same tokens in one piece, one by one at the end, and beside a neighbour: are the logits
    the same bits?
    """
    count = min(_PROBE_TOKENS, context.context_tokens)
    tokens = tuple(int(t) for t in np.arange(7, 7 + 31 * count, 31) % context.vocab_size)
    tail = count // 2
    whole = context.decode([Chunk(0, tokens, count)])[0]
    context.truncate(0, tail)
    alone = [context.decode([Chunk(0, (t,), 1)])[0] for t in tokens[tail : tail + 2]]
    same = all(np.array_equal(row[0], whole[tail + i]) for i, row in enumerate(alone))
    context.truncate(0, 0)
    if context.slots > 1:
        crowd = context.decode([Chunk(0, tokens[::-1], 1), Chunk(1, tokens[: tail + 1], 1)])[1]
        same = same and np.array_equal(crowd[0], whole[tail])
        context.truncate(1, 0)
        context.truncate(0, 0)
    return same
