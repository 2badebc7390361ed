"""Engines that fail: who is refused, who runs again, and which slots are used no more."""

from __future__ import annotations

from collections.abc import Sequence

from sled_testkit.verifier_stepping import PROMPT, TARGET, Bench
from sled_verifier.answers import Outcome
from sled_verifier.engine.base import EngineError, StepItem
from sled_verifier.engine.fake import FakeEngine
from sled_verifier.job import JobResult, run_job
from sled_verifier.refusal import Reason, Refusal
from sled_verifier.rounds import RoundVerdict


def failing(failures: list[EngineError]) -> FakeEngine:
    def before_step(items: Sequence[StepItem]) -> None:
        if failures:
            raise failures.pop(0)

    return FakeEngine(model=TARGET, slots=4, before_step=before_step)


def test_a_named_slot_is_refused_and_the_others_run_again() -> None:
    bench = Bench(failing([EngineError("slot 0 is lost", (0,))]))
    first, second = bench.open(), bench.open([8, 9, 10, 11])
    bench.submit(first, [1])
    bench.submit(second, [1], prompt=[8, 9, 10, 11])
    [outcome] = bench.step()
    assert isinstance(outcome.result, Refusal)
    assert (outcome.key, outcome.result.reason) == (first, Reason.INTERNAL)
    assert bench.verdict(second).next_token in range(64)
    bench.submit(first, [1])
    text = TARGET.greedy(PROMPT, 2)
    verdict = bench.verdict(first)
    assert [*([1] * verdict.accepted), verdict.next_token] == text[: verdict.accepted + 1]


def test_a_failure_that_names_nobody_is_everybodys() -> None:
    bench = Bench(failing([EngineError("out of memory")]))
    keys = [bench.open(), bench.open([8, 9])]
    bench.submit(keys[0])
    bench.submit(keys[1], prompt=[8, 9])
    assert {outcome.key for outcome in bench.step()} == set(keys)
    assert bench.scheduler.resident_sequences == 0


def test_a_round_is_not_tried_for_ever() -> None:
    """Somebody else's slot fails each time; after three steps the bystander is refused too."""
    failures = [EngineError("slot 3 again", (3,)) for _ in range(10)]
    bench = Bench(failing(failures))
    key = bench.open()
    bench.submit(key)
    outcomes: list[Outcome] = []
    while not outcomes:
        outcomes = bench.step()
    assert len(failures) == 7
    assert isinstance(outcomes[0].result, Refusal)
    assert outcomes[0].result.reason is Reason.INTERNAL


def test_a_slot_that_cannot_be_emptied_is_retired() -> None:
    class Broken(FakeEngine):
        def truncate(self, slot: int, length: int) -> None:
            if slot == 0:
                raise EngineError("slot 0 is gone", (0,))
            super().truncate(slot, length)

    failures = [EngineError("slot 0 is lost", (0,))]

    def before_step(items: Sequence[StepItem]) -> None:
        if failures:
            raise failures.pop()

    bench = Bench(Broken(model=TARGET, slots=2, before_step=before_step))
    key = bench.open()
    bench.submit(key)
    [outcome] = bench.step()
    assert isinstance(outcome.result, Refusal)
    assert bench.scheduler.residency.table.usable == 1
    bench.submit(key)
    assert bench.verdict(key).next_token == TARGET.greedy(PROMPT, 1)[0]


def test_logits_that_are_no_numbers_refuse_one_round_only() -> None:
    class Poisoned(FakeEngine):
        def step(self, items: Sequence[StepItem]) -> list[object]:  # type: ignore[override]
            rows = super().step(items)
            for item, logits in zip(items, rows, strict=True):
                if 13 in item.tokens:
                    logits[:] = float("nan")
            return list(rows)

    bench = Bench(Poisoned(model=TARGET, slots=4))
    bad, good = bench.open([13]), bench.open()
    bench.submit(bad, [1, 2], prompt=[13])
    bench.submit(good, [1, 2])
    results = {outcome.key: outcome.result for outcome in bench.step()}
    refusal = results[bad]
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.INTERNAL
    assert isinstance(results[good], RoundVerdict)
    slot = bench.scheduler.residency.table.slot_of(bad)
    assert slot is not None
    assert bench.engine.held(slot) == ()


def test_a_prompt_that_breaks_the_engine_is_not_computed_again_by_itself() -> None:
    bench = Bench(failing([EngineError("no", (0,))]))
    key = bench.open()
    bench.step()
    assert bench.scheduler.plan(bench.now) is None
    bench.submit(key)
    assert bench.verdict(key).next_token == TARGET.greedy(PROMPT, 1)[0]


def test_a_result_is_a_value() -> None:
    """Nothing of a job or its result refers to the scheduler's own lists."""
    bench = Bench()
    key = bench.open()
    bench.submit(key, [1])
    job = bench.scheduler.plan(1.0)
    assert job is not None
    result = run_job(bench.engine, job)
    assert isinstance(result, JobResult)
    assert isinstance(job.items, tuple)
    assert all(isinstance(item.tokens, tuple) for item in job.items)
