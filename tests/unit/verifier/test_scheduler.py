"""The scheduler step by step: admission, rounds, deadlines, closing, and what slots hold in
between.
"""

from __future__ import annotations

import pytest

from sled_speculation.sampling import Guide, SamplingParams
from sled_testkit.text_device import open_request
from sled_testkit.verifier_stepping import PROMPT, TARGET, Bench, refusal_of
from sled_verifier.engine.fake import FakeEngine
from sled_verifier.job import run_job
from sled_verifier.limits import Limits
from sled_verifier.refusal import Reason, Refusal
from sled_verifier.rounds import RoundVerdict


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


def test_a_guide_is_refused_at_the_door() -> None:
    bench = Bench()
    with pytest.raises(Refusal) as caught:
        bench.scheduler.open(open_request(PROMPT, sampling=SamplingParams(guide=Guide())), 0.0)
    assert caught.value.reason is Reason.INVALID_SAMPLING
    assert bench.scheduler.load.active_sequences == 0
