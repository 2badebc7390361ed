"""Judging a draft against tokens that the target has chosen already. Pure; must not know sequences
or vLLM.

vLLM chooses one token as soon as a prefix is computed, before any draft has come. That token was
drawn from the target's distribution without a look at the draft, so it is the target's next token
whatever the draft says: the draft token at its place is accepted when it is the same, and is
replaced by it otherwise. This leaves the target's distribution as it is in every mode, and the rest
of the draft (which the device drew after the very same prefix) can be judged in the next step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sled_speculation.acceptance import Judgement


@dataclass(frozen=True, slots=True)
class Settled:
    """The draft is judged. `used` foretold tokens are part of the output; the others stay foretold."""

    judgement: Judgement
    used: int


def settle(draft_tokens: Sequence[int], foretold: Sequence[int]) -> Settled | None:
    """The verdict on a draft, as far as foretold tokens decide it.

    None: the draft begins with all of them, so the target must be asked about the rest of the draft,
    `draft_tokens[len(foretold):]`.
    """
    for index, token in enumerate(foretold):
        if index == len(draft_tokens):
            return Settled(Judgement(index, token, bonus=True), index + 1)
        if draft_tokens[index] != token:
            return Settled(Judgement(index, token, bonus=False), index + 1)
    return None
