"""What steps cost, measured before the first device comes."""

from __future__ import annotations

import pytest

from sled_speculation.step_cost import StepShape
from sled_verifier.engine.base import EngineError
from sled_verifier.engine.fake import CostModel, FakeEngine
from sled_verifier.limits import Limits
from sled_verifier.load_control import LoadControl
from sled_verifier.measuring import REPEATS, EngineSteps, measure_engine, measure_steps


def test_the_measurement_leaves_the_engine_empty_and_knows_its_cost() -> None:
    now = [0.0]
    cost = CostModel(0.01, 0.002)
    engine = FakeEngine(slots=4, cost=cost, sleep=lambda s: now.__setitem__(0, now[0] + s))
    steps = EngineSteps(engine)

    def timed(sequences: int, tokens: int, context: int) -> float:
        steps(sequences, tokens, context)
        before = now[0]
        steps(sequences, tokens, context)
        return (now[0] - before) / REPEATS

    samples = measure_steps(timed, engine.info, Limits(), 60.0)
    steps.clear()
    assert not any(engine.held(slot) for slot in range(4))
    assert {shape.sequences for shape, _ in samples} == {1, 2, 4}
    control = LoadControl(8)
    control.measured(samples)
    learnt = control.steps.cost()
    assert learnt is not None
    for tokens in (1, 6, 20, 60):
        found = learnt.seconds(StepShape(tokens, 4, 100))
        assert found == pytest.approx(cost.seconds(tokens, 4), rel=0.1)


def test_no_time_for_measuring_measures_nothing() -> None:
    engine = FakeEngine(slots=4)
    assert measure_engine(engine, Limits(), 0.0) == []
    assert engine.steps == 0


def test_an_engine_that_fails_while_it_is_measured_is_left_empty() -> None:
    def fail(items: object) -> None:
        raise EngineError("no")

    engine = FakeEngine(slots=2, before_step=fail)
    assert measure_engine(engine, Limits(), 5.0) == []
    assert not engine.held(0)
