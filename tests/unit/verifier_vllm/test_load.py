"""Load: drafts that belong together share a step, the policy has the say, weights and costs."""

from __future__ import annotations

import asyncio
import random
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from sled_testkit.text_device import TextDevice, draft_request, open_request
from sled_verifier.gathering import Hold, hold_for
from sled_verifier.limits import Limits
from sled_verifier.load_control import Candidate, LoadControl, LoadSettings
from sled_verifier.vllm.backend import VllmBackend
from sled_verifier.vllm.fake import FakeRuntime
from sled_verifier.vllm.measuring import measure_step
from sled_verifier.vllm.roster import Roster
from sled_verifier.vllm.runtime import Output, StepOrder, StepReport

LIMITS = Limits(max_draft_tokens=8)


# ---- holding a step back


def test_who_is_due_at_once_is_waited_for() -> None:
    assert hold_for(1, [10.002, 10.001], 0.1, now=10.0) == Hold(10.002, 3)


def test_nobody_waits_for_who_is_far_away_or_for_nobody() -> None:
    assert hold_for(1, [10.2], 0.1, now=10.0) is None
    assert hold_for(1, [], 0.1, now=10.0) is None
    assert hold_for(1, [10.001], 0.0, now=10.0) is None


def test_many_do_not_wait_long_for_one() -> None:
    assert hold_for(8, [10.02], 0.1, now=10.0) is None
    assert hold_for(8, [10.002, 10.02], 0.1, now=10.0) == Hold(10.002, 9)


def test_a_hold_is_never_longer_than_its_share_of_a_step() -> None:
    rng = random.Random(4)
    for _ in range(500):
        due = [rng.uniform(0, 2) for _ in range(rng.randrange(20))]
        hold = hold_for(rng.randrange(1, 9), due, 1.0, now=0.0)
        assert hold is None or 0 <= hold.until <= 0.25


def steps_of(count: int, pause_seconds: float, rounds: int) -> float:
    """Mean rounds in a step of 100 ms when devices answer one after another, `pause_seconds` apart."""
    alone = LoadControl(LIMITS.max_draft_tokens, LoadSettings(foretell=False))
    roster = Roster(FakeRuntime(slots=count).info, LIMITS, alone)
    runtime = FakeRuntime(slots=count)
    prompts = [[n, 1, 2] for n in range(count)]
    keys = [roster.open(open_request(p), 0.0).key for p in prompts]
    outputs: dict[int, list[int]] = {key: [] for key in keys}
    now, sizes = 0.0, []
    arrivals = [(pause_seconds * (n + 1), key) for n, key in enumerate(keys)]
    while len(sizes) < rounds:
        arrivals.sort()
        hold = roster.hold(now)
        if hold is not None and hold.until > now and arrivals and roster.waiting < hold.rounds:
            now = min(hold.until, max(now, arrivals[0][0]))
        elif not roster.waiting and arrivals:
            now = max(now, arrivals[0][0])
        heard = [a for a in arrivals if a[0] <= now]
        arrivals = [a for a in arrivals if a[0] > now]
        for at, key in heard:
            draft = draft_request(prompts[keys.index(key)], outputs[key])
            known = roster.submit(key, draft, at)
            assert known is None or not outputs[key]
            if known is not None:
                outputs[key].append(known.result.next_token)  # type: ignore[union-attr]
                arrivals.append((at + pause_seconds, key))
        hold = roster.hold(now)
        if heard and hold is not None and hold.until > now and roster.waiting < hold.rounds:
            continue
        order = roster.order(now)
        if order is None:
            continue
        started, now = now, now + 0.1
        report = replace(runtime.run(order), seconds=now - started)
        outcomes = roster.apply(order, report, now)
        if order.trials:
            sizes.append(len(order.trials))
        for place, outcome in enumerate(outcomes):
            outputs[outcome.key].append(outcome.result.next_token)  # type: ignore[union-attr]
            arrivals.append((now + pause_seconds * (place + 1), outcome.key))
    return sum(sizes[10:]) / len(sizes[10:])


def test_a_closed_loop_of_quick_devices_keeps_the_batch_full() -> None:
    assert steps_of(16, 0.0005, 60) > 15.5


# ---- the policy


class Half(LoadControl):
    """Verifies half of each draft, and notes whom it was asked about."""

    def __init__(self) -> None:
        super().__init__(8)
        self.asked: list[tuple[int, int]] = []
        self.ended: list[int] = []

    def choose(
        self,
        candidates: Sequence[Candidate],
        *,
        prefill_tokens: int,
        max_draft_tokens: int,
        now: float,
    ) -> tuple[int, ...]:
        assert max_draft_tokens > 0
        self.asked += [(c.key, len(c.draft.draft_tokens)) for c in candidates]
        return tuple(len(c.draft.draft_tokens) // 2 for c in candidates)

    def closed(self, key: int) -> None:
        self.ended.append(key)

    def hint(self, key: int) -> int:
        return 3


async def test_the_policy_says_how_much_of_a_draft_is_verified() -> None:
    policy, runtime = Half(), FakeRuntime()
    prompt = [3, 1, 4]
    text = runtime.model.greedy(prompt, 40)
    async with VllmBackend(runtime, ThreadPoolExecutor(1), LIMITS, control=policy) as backend:
        key = (await backend.open(open_request(prompt))).key
        await backend.verify(key, draft_request(prompt, []))
        verdict = await backend.verify(key, draft_request(prompt, text[:1], text[1:7]))
        assert (verdict.verified, verdict.accepted, verdict.bonus) == (3, 3, True)
        assert (verdict.next_token, verdict.max_draft_tokens_hint) == (text[4], 3)
        device = TextDevice(backend, prompt, text, key=key, output=text[:5], draft_tokens=5)
        assert await device.write(40) == text
        backend.close(key)
    assert (key, 6) in policy.asked
    assert policy.ended == [key]


# ---- order and cost


def test_weights_and_deadlines_order_the_step() -> None:
    roster = Roster(FakeRuntime(slots=4).info, LIMITS)
    keys = []
    for weight in (1.0, 1.0, 5.0):
        request = replace(open_request([1, 2]), weight=weight)
        keys.append(roster.open(request, 0.0).key)
    order = roster.order(0.0)
    assert order is not None
    outputs = tuple(Output(key, (7,), None) for key in keys)
    report = StepReport(outputs, tuple((k, 2) for k in keys), frozenset(), 0.01)
    roster.apply(order, report, 0.1)
    for key, seconds in zip(keys, (20.0, 9.0, 30.0), strict=True):
        roster.submit(key, draft_request([1, 2], [], [7, 8], deadline_seconds=seconds), 1.0)
    order = roster.order(1.0)
    assert order is not None
    assert [trial.key for trial in order.trials] == [keys[2], keys[1], keys[0]]


def test_a_step_is_measured_at_the_size_that_was_asked_for() -> None:
    orders: list[StepOrder] = []
    runtime = FakeRuntime(slots=4, before_step=orders.append)
    assert measure_step(runtime, 3, 5, 40) == 0.0
    trials = [order.trials for order in orders if order.trials]
    assert [[len(t.draft_tokens) for t in step] for step in trials] == [[4, 4, 4]] * 3
    starts = [start for order in orders for start in order.start]
    assert len({start.tokens.tobytes() for start in starts}) == 3
    assert {len(start.tokens) for start in starts} == {40}
    assert not runtime.held
    for sequences, tokens, context in ((5, 1, 8), (1, 8, 250), (0, 1, 8), (1, 0, 8)):
        with pytest.raises(ValueError, match="do not fit"):
            measure_step(runtime, sequences, tokens, context)


async def test_slow_steps_are_shared_by_devices_that_answer_at_once() -> None:
    """Real time: sixteen devices without drafts, steps of 20 ms; the text is right and the steps are
    few, whatever the machine is busy with.
    """

    def slow(order: StepOrder) -> None:
        import time

        time.sleep(0.02)

    runtime = FakeRuntime(slots=16, before_step=slow)
    async with VllmBackend(runtime, ThreadPoolExecutor(1), LIMITS) as backend:
        prompts = [[n, 1, 2] for n in range(16)]
        texts = [runtime.model.greedy(p, 30) for p in prompts]
        fleet = [
            TextDevice(backend, p, t, draft_tokens=0) for p, t in zip(prompts, texts, strict=True)
        ]
        for device in fleet:
            await device.open()
        written = await asyncio.gather(*(device.write(30) for device in fleet))
    assert written == texts
    assert runtime.steps < 16 * 30 / 4


def test_prompts_of_measured_sequences_stay_inside_the_vocabulary() -> None:
    seen: list[array[int]] = []
    runtime = FakeRuntime(
        slots=2, before_step=lambda order: seen.extend(s.tokens for s in order.start)
    )
    measure_step(runtime, 2, 1, 9)
    assert max(max(tokens) for tokens in seen) < runtime.info.vocab_size
