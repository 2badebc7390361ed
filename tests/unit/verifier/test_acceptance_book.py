"""How much the acceptance of texts differs is learnt: it decides how soon a text's own rate is believed."""

from __future__ import annotations

import random

import pytest

from sled_verifier.acceptance_book import (
    MOST_PRIOR_TRIALS,
    TEXT_PRIOR_TRIALS,
    AcceptanceBook,
    Spread,
)


def learnt(a: float, b: float, texts: int, trials: int = 80, seed: int = 1) -> float:
    """Prior trials after texts whose rates are drawn from a beta distribution, which has a + b of them."""
    rng = random.Random(seed)
    spread = Spread()
    for _ in range(texts):
        rate = rng.betavariate(a, b)
        spread.add(trials, sum(rng.random() < rate for _ in range(trials)), a / (a + b))
    return spread.prior_trials()


def test_before_any_text_is_over_the_belief_holds() -> None:
    assert Spread().prior_trials() == pytest.approx(TEXT_PRIOR_TRIALS)


@pytest.mark.parametrize("prior_trials", [5, 16, 60])
def test_the_spread_of_texts_is_found(prior_trials: int) -> None:
    found = learnt(0.8 * prior_trials, 0.2 * prior_trials, 2000)
    assert prior_trials / 1.6 < found < prior_trials * 1.6


def test_texts_that_are_alike_say_hardly_anything_of_their_own() -> None:
    assert learnt(8e6, 2e6, 2000) > 100
    assert learnt(8e6, 2e6, 2000) <= MOST_PRIOR_TRIALS


def test_short_texts_and_impossible_rates_teach_nothing() -> None:
    spread = Spread()
    spread.add(1, 0, 0.8)
    spread.add(50, 50, 1.0)
    spread.add(50, 0, 0.0)
    assert spread.weight == 0


def test_a_book_over_texts_that_are_alike_keeps_to_what_is_usual() -> None:
    """Of two books that saw the same bad start of a text, the one whose texts differed believes it sooner."""
    rng = random.Random(2)
    rates = []
    for differing in (True, False):
        book = AcceptanceBook()
        for key in range(300):
            rate = rng.choice((0.65, 0.95)) if differing else 0.8
            book.open(key, "d", "m")
            for _ in range(30):
                accepted = next((n for n in range(4) if rng.random() > rate), 4)
                book.observe(key, 4, accepted)
            book.close(key)
        book.open(1000, "d", "m")
        before = book.by_position(1000, 1)[0]
        for _ in range(10):
            book.observe(1000, 4, 0)
        rates.append(book.by_position(1000, 1)[0] / before)
    assert rates[0] < 0.9 * rates[1]
