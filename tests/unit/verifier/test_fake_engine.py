"""The toy model is a pure function, and the fake engine finds whoever breaks the contract."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from sled_verifier.engine.base import Engine, EngineError, StepItem
from sled_verifier.engine.fake import CostModel, FakeEngine, ToyModel

MODEL = ToyModel(vocab_size=50, seed=3)


def engine(**options: object) -> FakeEngine:
    return FakeEngine(model=MODEL, slots=4, context_tokens=32, **options)  # type: ignore[arg-type]


def test_it_is_an_engine() -> None:
    checked: Engine = engine()
    assert checked.info.vocab_size == 50


def test_logits_depend_on_the_last_tokens_and_the_seed_only() -> None:
    row = MODEL.logits([9, 8, 1, 2, 3])
    assert row.dtype == np.float32
    assert row.shape == (50,)
    assert np.isfinite(row).all()
    assert (row == MODEL.logits([1, 2, 3])).all()
    assert (row != MODEL.logits([1, 2, 4])).any()
    assert (row != MODEL.logits([3, 2, 1])).any()
    assert (row != ToyModel(50, seed=4).logits([1, 2, 3])).any()


def test_greedy_is_the_argmax_again_and_again() -> None:
    tokens = [4]
    for _ in range(30):
        tokens.append(int(MODEL.logits(tokens).argmax()))
    assert MODEL.greedy([4], 30) == tokens[1:]
    assert len(set(tokens)) > 8


def test_end_tokens_come_about_as_often_as_asked() -> None:
    """One context in ten by construction of the hash; 600 contexts give 60 on average, and the
    bounds are five standard deviations away (false alarm about 1e-6, once for the fixed seed).
    """
    model = ToyModel(50, end_every=10)
    ends = sum(model.greedy([a, b, 7], 1) == [49] for a in range(30) for b in range(20))
    spread = 5 * math.sqrt(600 * 0.1 * 0.9)
    assert 60 - spread < ends < 60 + spread
    assert FakeEngine(model=model).info.end_tokens == (49,)
    assert engine().info.end_tokens == ()


def test_rows_do_not_depend_on_batch_chunks_or_slots() -> None:
    tokens = tuple(MODEL.greedy([1], 12))
    one = engine()
    [rows] = one.step([StepItem(0, 0, tokens, 12)])
    other = engine()
    parts = []
    for start in range(0, 12, 4):
        items = [
            StepItem(3, start, tokens[start : start + 4], 4),
            StepItem(1, start, (7, 7, 7, 7), 1),
        ]
        parts.append(other.step(items)[0])
    assert (np.concatenate(parts) == rows).all()
    for position in range(12):
        assert (rows[position] == MODEL.logits(tokens[: position + 1])).all()


def test_rollback_and_copies() -> None:
    fake = engine()
    fake.step([StepItem(0, 0, (1, 2, 3, 4), 0)])
    fake.copy_prefix(0, 2, 3)
    fake.truncate(0, 1)
    assert (fake.held(0), fake.held(2)) == ((1,), (1, 2, 3))
    [rows] = fake.step([StepItem(2, 3, (9,), 1)])
    assert (rows[0] == MODEL.logits([1, 2, 3, 9])).all()


@pytest.mark.parametrize(
    "items",
    [
        [StepItem(0, 1, (1,), 1)],
        [StepItem(0, 0, (), 0)],
        [StepItem(0, 0, (1,), 2)],
        [StepItem(0, 0, (50,), 1)],
        [StepItem(0, 0, (1,) * 33, 1)],
        [StepItem(0, 0, (1,), 1), StepItem(0, 0, (1,), 1)],
    ],
)
def test_a_broken_contract_raises(items: Sequence[StepItem]) -> None:
    with pytest.raises(ValueError, match="slot"):
        engine().step(items)


def test_more_broken_contracts() -> None:
    fake = engine(max_step_tokens=4)
    with pytest.raises(ValueError, match="max_step_tokens"):
        fake.step([StepItem(0, 0, (1,) * 5, 1)])
    fake.step([StepItem(0, 0, (1,), 0), StepItem(1, 0, (1,), 0)])
    with pytest.raises(ValueError, match="not empty"):
        fake.copy_prefix(0, 1, 1)
    with pytest.raises(ValueError, match="does not hold"):
        fake.copy_prefix(0, 2, 9)
    with pytest.raises(ValueError, match="holds 1 tokens"):
        fake.truncate(0, 2)
    fake.close()
    with pytest.raises(ValueError, match="closed"):
        fake.step([StepItem(0, 1, (1,), 1)])


def test_steps_cost_what_the_cost_model_says() -> None:
    slept: list[float] = []
    fake = engine(cost=CostModel(1.0, 0.1, 0.01), sleep=slept.append)
    fake.step([StepItem(0, 0, (1, 2, 3), 1), StepItem(1, 0, (1,), 1)])
    assert slept == [pytest.approx(1.42)]


def test_a_scripted_failure_spoils_its_slots() -> None:
    def fail(items: Sequence[StepItem]) -> None:
        raise EngineError("as told", (items[0].slot,))

    fake = engine(before_step=fail)
    with pytest.raises(EngineError):
        fake.step([StepItem(0, 0, (1,), 1), StepItem(1, 0, (1,), 1)])
    assert fake.held(0) != ()
    assert fake.held(1) == ()
    fake.truncate(0, 0)
