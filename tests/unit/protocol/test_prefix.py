"""The prefix hash: a fixed value everywhere, sensitive to everything that matters, indifferent to grouping."""

from __future__ import annotations

import random

import pytest

from sled_protocol.prefix import PrefixHash, prefix_hash


def test_known_values_hold_on_every_platform():
    assert prefix_hash([]) == 0x4552A3C5C9673422
    assert prefix_hash([1, 2, 3]) == 0x6AD9FE0CBAFEF0AA
    assert prefix_hash(range(151_000, 153_000)) == 0x3BB1956FA9A4D985


def test_grouping_of_calls_does_not_matter():
    rng = random.Random(5)
    tokens = [rng.randrange(2**32) for _ in range(500)]
    for _ in range(50):
        cuts = sorted(rng.sample(range(len(tokens)), 6))
        grouped = PrefixHash()
        for start, end in zip([0, *cuts], [*cuts, len(tokens)], strict=True):
            grouped.extend(tokens[start:end])
        assert grouped.value == prefix_hash(tokens)
        assert grouped.length == len(tokens)


def test_order_length_and_every_token_matter():
    rng = random.Random(6)
    tokens = [rng.randrange(150_000) for _ in range(64)]
    variants = {tuple(tokens), tuple(tokens[::-1]), tuple(tokens[:-1]), (*tokens, 0), (0, *tokens)}
    for index in range(len(tokens)):
        changed = list(tokens)
        changed[index] ^= 1 << rng.randrange(17)
        variants.add(tuple(changed))
        swapped = list(tokens)
        swapped[index - 1], swapped[index] = swapped[index], swapped[index - 1]
        variants.add(tuple(swapped))
    assert len({prefix_hash(variant) for variant in variants}) == len(variants)


def test_reading_the_value_does_not_end_the_hash():
    running = PrefixHash([7])
    assert running.value == running.value == prefix_hash([7])
    running.extend([8])
    assert running.value == prefix_hash([7, 8])


def test_copies_go_separate_ways():
    original = PrefixHash([1, 2])
    other = original.copy()
    other.extend([3])
    assert original.value == prefix_hash([1, 2])
    assert (other.value, other.length) == (prefix_hash([1, 2, 3]), 3)


@pytest.mark.parametrize("token", [-1, 2**32])
def test_ids_that_do_not_fit_are_refused_and_change_nothing(token):
    running = PrefixHash([1])
    with pytest.raises(ValueError, match="token ids must be"):
        running.extend([2, token])
    assert (running.value, running.length) == (prefix_hash([1]), 1)
