from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from sled_edge.drafter import ngram
from sled_edge.drafter.ngram import NgramDrafter, SuffixIndex
from sled_speculation.sampling import SamplingParams

GREEDY = SamplingParams()


def _always(_confidences: Sequence[float]) -> bool:
    return True


def _draft(
    drafter: NgramDrafter, prefix: Sequence[int], k: int = 8, sequence: int = 1
) -> list[int]:
    return list(drafter.propose(sequence, prefix, k, GREEDY, _always).tokens)


def _by_search(prefix: Sequence[int], k: int, longest: int = 4) -> list[int]:
    """The definition, by brute force: longest suffix first, most recent occurrence, copying into itself."""
    for length in range(min(longest, len(prefix)), 0, -1):
        suffix = list(prefix[-length:])
        for start in range(len(prefix) - length - 1, -1, -1):
            if list(prefix[start : start + length]) == suffix:
                text = list(prefix)
                for index in range(k):
                    text.append(text[start + length + index])
                return text[len(prefix) :]
    return []


def test_copies_what_followed_the_last_time() -> None:
    assert _draft(NgramDrafter(), (1, 2, 3, 4, 5, 1, 2, 3), 2) == [4, 5]


def test_the_longest_match_wins_over_the_most_recent() -> None:
    prefix = (1, 2, 3, 7, 9, 3, 8, 1, 2, 3)
    assert _draft(NgramDrafter(), prefix, 1) == [7]


def test_the_most_recent_of_equal_matches_wins() -> None:
    assert _draft(NgramDrafter(), (5, 6, 1, 5, 6, 2, 5, 6), 1) == [2]


def test_repetition_is_drafted_to_any_length() -> None:
    assert _draft(NgramDrafter(), (1, 2, 1, 2, 1), 6) == [2, 1, 2, 1, 2, 1]


def test_nothing_seen_before_gives_no_draft() -> None:
    assert _draft(NgramDrafter(), (1, 2, 3, 4)) == []
    assert _draft(NgramDrafter(), (1,)) == []


@pytest.mark.parametrize("seed", range(20))
def test_the_index_finds_what_a_search_finds(seed: int) -> None:
    rng = random.Random(seed)
    drafter = NgramDrafter()
    prefix = [rng.randrange(5) for _ in range(rng.randrange(1, 12))]
    for _ in range(60):
        k = rng.randrange(1, 9)
        assert _draft(drafter, tuple(prefix), k) == _by_search(prefix, k)
        prefix += [rng.randrange(5) for _ in range(rng.randrange(1, 6))]


def test_a_prefix_that_shrinks_or_changes_starts_the_index_anew() -> None:
    drafter = NgramDrafter()
    _draft(drafter, (1, 2, 3, 1, 2))
    for other in ((1, 2, 3, 1), (7, 8, 7), (1, 2, 9, 1, 2)):
        assert _draft(drafter, other, 3) == _by_search(other, 3)


def test_sequences_do_not_mix() -> None:
    drafter = NgramDrafter()
    _draft(drafter, (1, 2, 3, 1, 2), sequence=1)
    assert _draft(drafter, (1, 2), sequence=2) == []


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngram, "MAX_INDEXED_TOKENS", 64)
    monkeypatch.setattr(ngram, "MAX_SEQUENCES", 3)
    drafter = NgramDrafter()
    rng = random.Random(1)
    text = [rng.randrange(4) for _ in range(1000)]
    for length in range(10, 1000, 7):
        _draft(drafter, tuple(text[:length]), 4)
        assert len(drafter._indices[1].tokens) <= 64
        # What is newest stays in view.
        assert drafter._indices[1].tokens[-32:] == text[max(0, length - 32) : length]
    for sequence in range(10):
        _draft(drafter, (1, 2, 1), sequence=sequence)
    assert len(drafter._indices) <= 3
    drafter.forget(9)
    drafter.forget(12345)
    assert 9 not in drafter._indices
    drafter.close()
    assert not drafter._indices


def test_the_drafter_stops_when_it_is_told_to() -> None:
    seen: list[int] = []

    def keep(confidences: Sequence[float]) -> bool:
        seen.append(len(confidences))
        return len(confidences) < 3

    proposal = NgramDrafter().propose(1, (1, 2, 1, 2, 1), 8, GREEDY, keep)
    assert len(proposal.tokens) == len(proposal.confidences) == 3
    assert proposal.distributions == ()
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize(("follows", "low", "high"), [("same", 0.9, 1.0), ("other", 0.0, 0.1)])
def test_confidence_follows_what_the_target_did(follows: str, low: float, high: float) -> None:
    drafter = NgramDrafter()
    prefix: list[int] = []
    for number in range(100):
        prefix += [100 + number, 7, 8]
        confidences = drafter.propose(1, tuple(prefix), 1, GREEDY, _always).confidences
        prefix.append(1 if follows == "same" else 1000 + number)
    assert low <= confidences[0] <= high


def test_an_index_entry_appears_once_its_successor_is_known() -> None:
    index = SuffixIndex(3)
    index.extend((1, 2))
    assert index.find() == (0, 0)
    index.extend((1,))
    assert index.find() == (1, 1)
