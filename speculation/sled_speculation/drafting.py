"""What every model drafter does with a row of its own logits: pick a draft token. Must not know model runtimes."""

from __future__ import annotations

import numpy as np

from sled_protocol.distribution import DraftDistribution, quantise
from sled_speculation.choice import target_token
from sled_speculation.randomness import Purpose, uniform
from sled_speculation.sampling import AcceptanceMode, SamplingParams
from sled_speculation.transforms import Row, TokenSet, greedy_token, penalised, target_probs


def draft_token(
    logits_row: Row,
    params: SamplingParams,
    seen: TokenSet,
    position: int,
    max_entries: int,
    *,
    round_start: int,
) -> tuple[int, DraftDistribution | None, float]:
    """One draft token, the distribution to send with it (None = point mass), and the drafter's confidence in [0, 1].

    - Greedy: the drafter's most probable token; nothing to send. Confidence is its probability at temperature 1.
    - Rejection: the drafter's distribution under the target's own parameters is quantised, and the token is sampled from
      exactly that, with `Purpose.DRAFT`. Confidence is the token's probability in it.
    - Match: the drafter runs the target's own race, same keys, on its own distribution (`choice.target_token`), which is
      the best guess of the target's sample when the two distributions are alike; nothing to send.

    Args:
        logits_row: [vocab] of the draft model.
        params: of the sequence.
        seen: prompt + committed + the draft tokens before this one; not changed.
        position: number of those tokens, repeats counted.
        max_entries: at most this many entries are sent.
        round_start: number of prompt + committed tokens when the round began.

    Raises:
        UnusableLogits: the row has NaN or infinite logits.
    """
    if params.greedy:
        token = greedy_token(logits_row, params, seen)
        row = penalised(logits_row, params, seen)
        return token, None, float(1 / np.exp(row - row[token]).sum())
    probs = target_probs(logits_row, params, seen)
    if params.mode is AcceptanceMode.MATCH:
        token = target_token(probs, params.seed, position)
        return token, None, float(probs[token])
    distribution = quantise(probs, max_entries)
    token = distribution.sample(uniform(params.seed, position, Purpose.DRAFT, round_start))
    return token, distribution, distribution.probability(token)
