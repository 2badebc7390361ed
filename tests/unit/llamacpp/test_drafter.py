"""LlamaCppDrafter against the Drafter contract, on the tiny model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from sled_edge.drafter.base import Drafter
from sled_edge.drafter.llamacpp import LlamaCppDrafter
from sled_llamacpp import Chunk, Context, LlamaCppError, Model
from sled_speculation.sampling import AcceptanceMode, SamplingParams
from sled_testkit.tiny_model import VOCAB_SIZE

GREEDY = SamplingParams()
PREFIX = tuple(b"the quick brown fox jumps over the lazy dog")


def always(_: Sequence[float]) -> bool:
    return True


@pytest.fixture
def drafter(tiny_path: Path) -> Iterator[LlamaCppDrafter]:
    made = LlamaCppDrafter(tiny_path, name="tiny", context_tokens=80, sequences=2, max_probs=8)
    yield made
    made.close()


def greedy_continuation(model: Model, prefix: Sequence[int], count: int) -> list[int]:
    found: list[int] = []
    with Context(model, slots=1, context_tokens=200, threads=1, exact=False) as context:
        rows = context.decode([Chunk(0, tuple(prefix), 1)])[0]
        for _ in range(count):
            found.append(int(np.argmax(rows[-1])))
            rows = context.decode([Chunk(0, (found[-1],), 1)])[0]
    return found


def test_info(drafter: Drafter, tiny: Model) -> None:
    assert (drafter.info.name, drafter.info.kind, drafter.info.generates) == (
        "tiny",
        "llamacpp",
        True,
    )
    assert drafter.info.tokenizer_fingerprint == tiny.vocabulary.fingerprint()


def test_a_greedy_draft_is_the_models_own_continuation(drafter: Drafter, tiny: Model) -> None:
    proposal = drafter.propose(1, PREFIX, 6, GREEDY, always)
    assert list(proposal.tokens) == greedy_continuation(tiny, PREFIX, 6)
    assert proposal.distributions == ()
    assert len(proposal.confidences) == 6
    assert all(0 < confidence <= 1 for confidence in proposal.confidences)
    assert proposal.draft_seconds > 0


def test_rollback_gives_what_a_fresh_start_gives(drafter: Drafter) -> None:
    first = drafter.propose(1, PREFIX, 6, GREEDY, always)
    prefix = (*PREFIX, *first.tokens[:2], (first.tokens[2] + 1) % 256)
    second = drafter.propose(1, prefix, 6, GREEDY, always)
    assert second.tokens == drafter.propose(2, prefix, 6, GREEDY, always).tokens


def test_a_shorter_and_an_equal_prefix_work(drafter: Drafter) -> None:
    long = drafter.propose(1, PREFIX, 4, GREEDY, always)
    short = drafter.propose(1, PREFIX[:9], 4, GREEDY, always)
    assert short.tokens == drafter.propose(2, PREFIX[:9], 4, GREEDY, always).tokens
    assert drafter.propose(1, PREFIX, 4, GREEDY, always).tokens == long.tokens


def test_more_sequences_than_slots_evict_and_come_back(drafter: Drafter) -> None:
    prefixes = {n: (*PREFIX[: 8 + n], n) for n in range(5)}
    first = {n: drafter.propose(n, p, 3, GREEDY, always).tokens for n, p in prefixes.items()}
    again = {n: drafter.propose(n, p, 3, GREEDY, always).tokens for n, p in prefixes.items()}
    assert first == again


def test_drafting_stops_when_asked(drafter: Drafter) -> None:
    asked: list[int] = []

    def twice(confidences: Sequence[float]) -> bool:
        asked.append(len(confidences))
        return len(confidences) < 2

    assert len(drafter.propose(1, PREFIX, 8, GREEDY, twice).tokens) == 2
    assert asked == [1, 2]


def test_drafting_ends_after_an_end_token(tiny_path: Path, tiny: Model) -> None:
    third = greedy_continuation(tiny, PREFIX, 3)[2]
    drafter = LlamaCppDrafter(tiny_path, name="tiny", context_tokens=80)
    drafter._end_tokens = frozenset({third})
    tokens = drafter.propose(1, PREFIX, 8, GREEDY, always).tokens
    assert tokens[-1] == third
    assert third not in tokens[:-1]
    drafter.close()


@pytest.mark.parametrize("mode", [AcceptanceMode.REJECTION, AcceptanceMode.MATCH])
def test_sampled_drafts_depend_on_seed_and_position_only(
    drafter: Drafter, mode: AcceptanceMode
) -> None:
    params = SamplingParams(temperature=1.5, seed=4, mode=mode)
    first = drafter.propose(1, PREFIX, 6, params, always)
    drafter.propose(2, PREFIX[:5], 6, params, always)
    assert drafter.propose(2, PREFIX, 6, params, always).tokens == first.tokens
    other = SamplingParams(temperature=1.5, seed=5, mode=mode)
    assert drafter.propose(1, PREFIX, 6, other, always).tokens != first.tokens


def test_rejection_drafts_come_with_their_distributions(drafter: Drafter) -> None:
    params = SamplingParams(temperature=1.5, seed=4)
    proposal = drafter.propose(1, PREFIX, 6, params, always)
    assert len(proposal.distributions) == len(proposal.tokens) == 6
    for token, distribution, confidence in zip(
        proposal.tokens, proposal.distributions, proposal.confidences, strict=True
    ):
        assert len(distribution.token_ids) <= 8
        assert distribution.probability(token) == confidence > 0


def test_the_repetition_penalty_sees_the_draft_itself(drafter: Drafter) -> None:
    params = SamplingParams(repetition_penalty=10.0)
    tokens = drafter.propose(1, PREFIX, 12, params, always).tokens
    assert len(set(tokens)) == len(tokens)
    assert not set(tokens) & set(PREFIX)


@pytest.mark.parametrize(("length", "expected"), [(79, 2), (80, 1), (81, 0), (500, 0)])
def test_a_full_context_shortens_the_draft(drafter: Drafter, length: int, expected: int) -> None:
    prefix = [n % 256 for n in range(length)]
    assert len(drafter.propose(1, prefix, 8, GREEDY, always).tokens) == expected


@pytest.mark.parametrize(("prefix", "max_tokens"), [((), 4), (PREFIX, 0)])
def test_nothing_to_draft_is_no_draft(
    drafter: Drafter, prefix: tuple[int, ...], max_tokens: int
) -> None:
    assert drafter.propose(1, prefix, max_tokens, GREEDY, always).tokens == ()


def test_a_failed_pass_gives_nothing_and_the_next_works(drafter: LlamaCppDrafter) -> None:
    expected = drafter.propose(1, PREFIX, 4, GREEDY, always).tokens
    drafter._context.abort()
    assert drafter.propose(1, PREFIX, 4, GREEDY, always).tokens == ()
    assert drafter.propose(1, PREFIX, 4, GREEDY, always).tokens == expected


def test_forgetting_the_unknown_is_ignored(drafter: Drafter) -> None:
    drafter.forget(12345)


def test_bad_settings_are_refused(tiny_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"max_probs is 0"):
        LlamaCppDrafter(tiny_path, name="tiny", max_probs=0)
    with pytest.raises(LlamaCppError, match=r"absent.gguf"):
        LlamaCppDrafter(tmp_path / "absent.gguf", name="tiny")
    with pytest.raises(LlamaCppError, match=r"context_tokens"):
        LlamaCppDrafter(tiny_path, name="tiny", context_tokens=VOCAB_SIZE * 100)
