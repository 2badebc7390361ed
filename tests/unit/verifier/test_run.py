"""When the verifier goes on by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sled_verifier.rounds import DraftRequest, Load, RoundVerdict
from sled_verifier.run import next_round

END = 9
DRAFT = DraftRequest(20, 77, (1, 2, 3), confidences=(0.9, 0.8, 0.7), run_tokens=8)
VERDICT = RoundVerdict(20, 2, 3, 5, False, 0.0, 0.0, max_draft_tokens_hint=0, load=Load())


def test_a_run_goes_on_after_what_the_round_brought() -> None:
    following = next_round(DRAFT, VERDICT, {END})
    assert following is not None
    assert (following.committed_length, following.run_tokens) == (23, 5)
    assert following.draft_tokens == following.confidences == ()
    assert following.prefix_hash is None


@pytest.mark.parametrize(
    ("draft", "verdict", "why"),
    [
        (replace(DRAFT, run_tokens=0), VERDICT, "nothing was allowed"),
        (replace(DRAFT, run_tokens=3), VERDICT, "the round brought all that was allowed"),
        (DRAFT, replace(VERDICT, next_token=END), "the text may be over"),
        (DRAFT, replace(VERDICT, max_draft_tokens_hint=1), "drafts pay"),
    ],
)
def test_it_is_the_devices_turn_when(draft: DraftRequest, verdict: RoundVerdict, why: str) -> None:
    assert next_round(draft, verdict, {END}) is None, why


def test_a_device_that_does_not_draft_is_not_held_up_by_a_hint() -> None:
    assert next_round(replace(DRAFT, run_on=True), replace(VERDICT, max_draft_tokens_hint=8), ())


def test_a_run_ends_after_the_tokens_that_were_allowed() -> None:
    draft: DraftRequest | None = replace(DRAFT, draft_tokens=(), confidences=())
    rounds = 0
    while draft is not None:
        rounds += 1
        draft = next_round(draft, replace(VERDICT, accepted=0, verified=0), {END})
    assert rounds == DRAFT.run_tokens
