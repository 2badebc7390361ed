"""The scheduler in virtual time: exact texts, nobody starved, everything bounded, failures contained."""

from __future__ import annotations

import random
import statistics
from array import array
from collections.abc import Sequence

import pytest

from sled_testkit.verifier_simulation import SimulatedDevice, Simulation

from sled_protocol.prefix import prefix_hash
from sled_speculation.sampling import SamplingParams
from sled_verifier.engine.base import EngineError, StepItem
from sled_verifier.engine.fake import CostModel, FakeEngine, ToyModel
from sled_verifier.job import JobResult, run_job
from sled_verifier.limits import Limits
from sled_verifier.refusal import Reason, Refusal
from sled_verifier.rounds import DraftRequest, OpenRequest, RoundVerdict
from sled_verifier.scheduler import Outcome, Scheduler
from sled_verifier.slots import SlotPolicy

TARGET = ToyModel(vocab_size=64, seed=2)
PROMPT = [5, 6, 7]


def short_prompt(rng: random.Random) -> list[int]:
    return [rng.randrange(64) for _ in range(rng.randrange(1, 40))]


def long_prompt(rng: random.Random) -> list[int]:
    return [rng.randrange(64) for _ in range(1800)]


def worst_share(devices: Sequence[SimulatedDevice]) -> float:
    outputs = [device.output_tokens for device in devices]
    return min(outputs) / statistics.median(outputs)


# ---- fairness


@pytest.mark.parametrize("slots", [64, 24, 8])
def test_64_devices_share_whatever_slots_there_are(slots: int) -> None:
    """With fewer slots than devices they take turns: eviction, rebuilding, and still a fair share."""
    devices = [SimulatedDevice(n, short_prompt) for n in range(64)]
    simulation = Simulation(devices, slots=slots)
    simulation.run(60 if slots < 24 else 20)
    assert worst_share(devices) >= 0.5, sorted(d.output_tokens for d in devices)
    assert min(device.texts for device in devices) > 0
    counters = simulation.scheduler.residency.counters
    assert (counters.evictions > 0) == (slots < 64)
    if slots >= 24:
        assert not any(device.refusals for device in devices)


def test_short_deadlines_take_nothing_from_patient_devices() -> None:
    devices = [
        SimulatedDevice(n, short_prompt, deadline_seconds=0.5 if n % 2 else None) for n in range(64)
    ]
    Simulation(devices, slots=64, cost=CostModel(0.05, 0.001)).run(30)
    assert worst_share(devices) >= 0.5


def test_a_long_prompt_does_not_delay_the_rounds_of_others() -> None:
    """Devices that only ever send long prompts, faster than they can be computed, add no more than their chunk to
    any round; and a short prompt passes theirs (one alone takes three seconds), except those that waited long.
    """
    cost = CostModel(step_seconds=0.01, token_seconds=0.001)
    devices = [SimulatedDevice(n, short_prompt, text_tokens=400) for n in range(4)]
    hogs = [SimulatedDevice(4 + n, long_prompt, text_tokens=1) for n in range(4)]
    simulation = Simulation([*devices, *hogs], slots=8, cost=cost)
    simulation.run(5)
    for device in devices:
        device.longest_wait_seconds = device.longest_first_wait_seconds = 0.0
    simulation.run(60)
    chunk = Limits().prefill_chunk_tokens
    longest_step = cost.seconds(8 * 5 + chunk, 8)
    for device in devices:
        assert device.longest_wait_seconds <= 2 * longest_step
        assert device.longest_first_wait_seconds <= 3.0
    assert min(hog.texts for hog in hogs) > 0


def test_prompts_are_not_starved_by_rounds_that_could_fill_every_step() -> None:
    devices = [
        SimulatedDevice(n, short_prompt, draft_tokens=16, text_tokens=10_000, think_seconds=0)
        for n in range(40)
    ]
    newcomer = SimulatedDevice(40, long_prompt)
    simulation = Simulation([*devices, newcomer], slots=41, context_tokens=20_000)
    simulation.run(10)
    assert newcomer.texts > 0


def test_the_same_simulation_twice_is_the_same() -> None:
    runs = []
    for _ in range(2):
        devices = [SimulatedDevice(n, short_prompt) for n in range(20)]
        Simulation(devices, slots=6).run(5)
        runs.append([device.output_tokens for device in devices])
    assert runs[0] == runs[1]


# ---- single steps


class Bench:
    """A scheduler and an engine stepped by hand."""

    def __init__(self, engine: FakeEngine | None = None, limits: Limits | None = None) -> None:
        self.engine = engine or FakeEngine(model=TARGET, slots=4, context_tokens=200)
        policy = SlotPolicy(keep_idle_seconds=0, patience_seconds=0, slice_seconds=0)
        self.scheduler = Scheduler(self.engine.info, limits or Limits(), policy)
        self.now = 0.0

    def open(self, prompt: Sequence[int] = PROMPT, committed: Sequence[int] = ()) -> int:
        request = OpenRequest("d", array("I", prompt), array("I", committed), SamplingParams())
        return self.scheduler.open(request, self.now).key

    def submit(
        self,
        key: int,
        draft: Sequence[int] = (),
        committed: Sequence[int] = (),
        prompt: Sequence[int] = PROMPT,
        deadline_seconds: float | None = None,
    ) -> RoundVerdict | None:
        request = DraftRequest(
            len(committed),
            prefix_hash([*prompt, *committed]),
            tuple(draft),
            deadline_seconds=deadline_seconds,
        )
        return self.scheduler.submit(key, request, self.now)

    def step(self) -> list[Outcome]:
        self.now += 1.0
        job = self.scheduler.plan(self.now)
        assert job is not None
        return self.scheduler.apply(job, run_job(self.engine, job), self.now)

    def verdict(self, key: int) -> RoundVerdict:
        for _ in range(100):
            for outcome in self.step():
                if outcome.key == key:
                    assert isinstance(outcome.result, RoundVerdict)
                    return outcome.result
        raise AssertionError("no verdict")


def refusal_of(call: object, *arguments: object, **options: object) -> Refusal:
    with pytest.raises(Refusal) as caught:
        call(*arguments, **options)  # type: ignore[operator]
    return caught.value


def test_nothing_to_plan() -> None:
    bench = Bench()
    assert bench.scheduler.plan(0.0) is None
    key = bench.open([1])
    assert bench.scheduler.plan(0.0) is None
    bench.scheduler.close(key)
    assert bench.scheduler.load.active_sequences == 0


def test_prompt_and_round_go_in_one_step_when_they_fit() -> None:
    bench = Bench()
    key = bench.open()
    right = TARGET.greedy(PROMPT, 3)
    bench.submit(key, right)
    [outcome] = bench.step()
    assert isinstance(outcome.result, RoundVerdict)
    assert (outcome.result.accepted, outcome.result.bonus) == (3, True)
    assert outcome.result.next_token == TARGET.greedy([*PROMPT, *right], 1)[0]


def test_between_rounds_a_slot_holds_all_but_the_last_token() -> None:
    bench = Bench()
    key = bench.open()
    draft = [*TARGET.greedy(PROMPT, 2), 63, 63]
    bench.submit(key, draft)
    verdict = bench.verdict(key)
    output = [*draft[: verdict.accepted], verdict.next_token]
    assert verdict.accepted == 2
    assert bench.engine.held(0) == (*PROMPT, *output[:-1])


def test_a_sequence_closed_in_mid_step_gives_its_slot_back_after_it() -> None:
    bench = Bench(FakeEngine(model=TARGET, slots=1))
    first = bench.open()
    bench.submit(first, [1, 2])
    job = bench.scheduler.plan(1.0)
    assert job is not None
    second = bench.open([9, 9])
    bench.scheduler.close(first)
    assert bench.scheduler.load.active_sequences == 1
    assert bench.scheduler.resident_sequences == 1
    assert bench.scheduler.apply(job, run_job(bench.engine, job), 1.0) == []
    assert bench.scheduler.resident_sequences == 0
    bench.submit(second, prompt=[9, 9])
    assert bench.verdict(second).next_token == TARGET.greedy([9, 9], 1)[0]


def test_a_withdrawn_round_can_be_sent_again() -> None:
    bench = Bench()
    key = bench.open()
    bench.submit(key, [1])
    bench.scheduler.withdraw(key)
    bench.submit(key, [1])
    bench.verdict(key)


def test_a_round_withdrawn_while_it_runs_is_answered_when_asked_again() -> None:
    bench = Bench()
    key = bench.open()
    bench.submit(key, [1])
    job = bench.scheduler.plan(1.0)
    assert job is not None
    bench.scheduler.withdraw(key)
    assert refusal_of(bench.submit, key, [1]).reason is Reason.ROUND_IN_FLIGHT
    [outcome] = bench.scheduler.apply(job, run_job(bench.engine, job), 1.0)
    assert bench.submit(key, [1]) == outcome.result


def test_a_replay_with_other_tokens_is_stale() -> None:
    """The verdict on another draft would be read as one on these tokens."""
    bench = Bench()
    key = bench.open()
    bench.submit(key, [1, 2])
    verdict = bench.verdict(key)
    assert bench.submit(key, [1, 2]) == verdict
    assert refusal_of(bench.submit, key, [1, 3]).reason is Reason.STALE_PREFIX


def test_deadlines() -> None:
    bench = Bench(limits=Limits(default_deadline_seconds=10))
    patient, hasty = bench.open(), bench.open([8])
    bench.submit(patient)
    bench.submit(hasty, prompt=[8], deadline_seconds=3.0)
    assert bench.scheduler.next_deadline() == 3.0
    assert bench.scheduler.expire(2.9) == []
    [late] = bench.scheduler.expire(3.0)
    assert isinstance(late.result, Refusal)
    assert (late.key, late.result.reason) == (hasty, Reason.DEADLINE_EXCEEDED)
    assert bench.scheduler.next_deadline() == 10.0
    bench.submit(hasty, prompt=[8])
    bench.verdict(hasty)


def test_computing_a_prompt_does_not_count_against_the_default_deadline() -> None:
    limits = Limits(default_deadline_seconds=2.5, step_tokens=34, prefill_chunk_tokens=8)
    bench = Bench(limits=limits)
    prompt = [n % 64 for n in range(190)]
    patient = bench.open(prompt)
    bench.submit(patient, prompt=prompt)
    while not (outcomes := bench.step()):
        assert bench.scheduler.expire(bench.now) == []
    assert bench.now > limits.default_deadline_seconds
    assert isinstance(outcomes[0].result, RoundVerdict)


def test_idle_sequences_are_forgotten_but_not_while_they_wait() -> None:
    bench = Bench(limits=Limits(idle_seconds=10, default_deadline_seconds=60))
    idle, waiting = bench.open([1]), bench.open([2])
    bench.submit(waiting, prompt=[2])
    assert bench.scheduler.forget_idle(9.0) == 0
    assert bench.scheduler.forget_idle(11.0) == 1
    assert refusal_of(bench.submit, idle, prompt=[1]).reason is Reason.UNKNOWN_SEQUENCE
    bench.verdict(waiting)


def test_limits_of_queue_and_sequences() -> None:
    bench = Bench(limits=Limits(max_queue=1, max_sequences=2))
    first, second = bench.open(), bench.open()
    assert refusal_of(bench.open).reason is Reason.TOO_MANY_SEQUENCES
    bench.submit(first)
    assert refusal_of(bench.submit, second).reason is Reason.QUEUE_FULL
    bench.scheduler.close(first)
    bench.submit(second)


def test_the_context_holds_prompt_and_output() -> None:
    bench = Bench()
    assert refusal_of(bench.open, [1] * 200).reason is Reason.PROMPT_TOO_LONG
    assert refusal_of(bench.open, [1] * 100, [1] * 100).reason is Reason.CONTEXT_FULL
    key = bench.open([1] * 195)
    for draft, allowed in (([1] * 5, False), ([1] * 4, True)):
        if allowed:
            bench.submit(key, draft, prompt=[1] * 195)
        else:
            refusal = refusal_of(bench.submit, key, draft, prompt=[1] * 195)
            assert refusal.reason is Reason.CONTEXT_FULL
    bench.verdict(key)


def test_a_draft_longer_than_configured() -> None:
    bench = Bench(limits=Limits(max_draft_tokens=2))
    key = bench.open()
    assert refusal_of(bench.submit, key, [1, 2, 3]).reason is Reason.DRAFT_TOO_LONG


# ---- failures


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
