"""Tokens that the target chooses while a device drafts: drafts are held against them, and texts stay the target's own."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest

from sled_speculation.acceptance import Judgement
from sled_speculation.sampling import AcceptanceMode, SamplingParams
from sled_testkit.text_device import draft_request, open_request
from sled_testkit.verifier_stepping import PROMPT, TARGET, Bench
from sled_verifier.answers import Outcome
from sled_verifier.foretold import MOST_FORETOLD, may_foretell, settle
from sled_verifier.job import run_job
from sled_verifier.limits import Limits
from sled_verifier.load_control import LoadControl, LoadSettings
from sled_verifier.rounds import OpenRequest, RoundVerdict
from sled_verifier.scheduler import Scheduler
from sled_verifier.session import Session
from sled_verifier.vllm.fake import FakeRuntime
from sled_verifier.vllm.roster import Roster

OTHER = [9, 9]


def token_beyond(right: int) -> int:
    return (right + 1) % TARGET.vocab_size


# ---- a draft against what is known


@pytest.mark.parametrize(
    ("draft", "foretold", "judgement", "used"),
    [
        ([5, 6], [7], Judgement(0, 7, bonus=False), 1),
        ([5, 6], [5, 7], Judgement(1, 7, bonus=False), 2),
        ([5], [5, 6], Judgement(1, 6, bonus=True), 2),
        ([], [5, 6], Judgement(0, 5, bonus=True), 1),
    ],
)
def test_a_draft_is_settled_where_the_target_has_chosen_otherwise_or_more(
    draft: list[int], foretold: list[int], judgement: Judgement, used: int
) -> None:
    settled = settle(draft, foretold)
    assert settled is not None
    assert (settled, settled.accepted + 1) == (judgement, used)


def test_a_draft_that_begins_with_all_that_is_known_is_open() -> None:
    assert settle([5, 6, 7], [5, 6]) is None
    assert settle([5], [5]) is None
    assert settle([5], []) is None


# ---- who is carried along


def two(bench: Bench) -> tuple[int, int]:
    """Two sequences that have had a verdict each, the second of them without being carried along."""
    first, second = bench.open(), bench.open(OTHER)
    for key, prompt in ((first, PROMPT), (second, OTHER)):
        bench.submit(key, prompt=prompt)
    while bench.scheduler.waiting:
        bench.step()
    return first, second


def texts() -> tuple[list[int], list[int]]:
    return list(TARGET.greedy(PROMPT, 8)), list(TARGET.greedy(OTHER, 8))


def test_a_wrong_draft_is_answered_at_once_after_its_sequence_was_carried_along() -> None:
    bench = Bench()
    first, second = two(bench)
    mine, other = texts()
    bench.submit(first, committed=mine[:1])
    assert [outcome.key for outcome in bench.step()] == [first]
    assert bench.scheduler.foretold_tokens == 1
    answer = bench.submit(second, [token_beyond(other[1]), 3], committed=other[:1], prompt=OTHER)
    assert isinstance(answer, Outcome)
    assert isinstance(answer.result, RoundVerdict)
    assert (answer.result.accepted, answer.result.next_token) == (0, other[1])
    assert bench.scheduler.waiting == 0


def test_a_right_draft_has_only_its_rest_verified() -> None:
    bench = Bench()
    first, second = two(bench)
    mine, other = texts()
    bench.submit(first, committed=mine[:1])
    bench.step()
    assert bench.submit(second, other[1:4], committed=other[:1], prompt=OTHER) is None
    (outcome,) = bench.step()
    assert isinstance(outcome.result, RoundVerdict)
    assert outcome.result.verified == outcome.result.accepted == 3
    assert outcome.result.next_token == other[4]
    # The last known token, two draft tokens instead of three, and the other sequence, carried along.
    assert bench.scheduler.load.step_tokens == 4


def test_nobody_is_carried_along_without_a_round_of_another() -> None:
    bench = Bench()
    two(bench)
    assert bench.scheduler.plan(bench.now) is None


def test_no_sequence_is_carried_further_than_allowed() -> None:
    bench = Bench()
    first, _ = two(bench)
    mine = list(TARGET.greedy(PROMPT, 8))
    for written in range(1, 6):
        bench.submit(first, committed=mine[:written])
        bench.step()
    assert bench.scheduler.foretold_tokens == MOST_FORETOLD


def test_nothing_is_foretold_where_it_is_switched_off() -> None:
    bench = Bench(control=LoadControl(8, LoadSettings(foretell=False)))
    first, _ = two(bench)
    bench.submit(first, committed=list(TARGET.greedy(PROMPT, 1)))
    bench.step()
    assert bench.scheduler.foretold_tokens == 0


def a_session(answered: bool = True, **sampling: object) -> Session:
    session = Session(1, replace(open_request(PROMPT), sampling=SamplingParams(**sampling)), 0.0)  # type: ignore[arg-type]
    session.rhythm.answered_at = 1.0 if answered else None
    return session


def test_only_what_is_certain_is_foretold() -> None:
    info = replace(Bench().engine.info, end_tokens=(2,))
    assert may_foretell(a_session(), info)
    assert may_foretell(a_session(temperature=1.0, mode=AcceptanceMode.MATCH), info)
    assert not may_foretell(a_session(temperature=1.0), info)
    assert not may_foretell(a_session(repetition_penalty=1.1), info)
    assert not may_foretell(a_session(answered=False), info)
    ended = a_session()
    ended.foretell(info.end_tokens[:1])
    assert not may_foretell(ended, info)
    full = a_session()
    full.tokens.extend([1] * (info.context_tokens - len(PROMPT) - 1))
    assert not may_foretell(full, info)


# ---- whole texts, at random


@dataclass
class Device:
    """Drafts with mistakes and pauses, one text."""

    key: int
    prompt: list[int]
    rng: random.Random
    written: list[int] = field(default_factory=list)
    draft: list[int] = field(default_factory=list)
    due: int = 0

    def make(self) -> list[int]:
        right = TARGET.greedy([*self.prompt, *self.written], self.rng.randrange(6))
        self.draft = [t if self.rng.random() < 0.8 else token_beyond(t) for t in right]
        return self.draft

    def take(self, verdict: RoundVerdict, turn: int) -> None:
        self.written += [*self.draft[: verdict.accepted], verdict.next_token]
        self.due = turn + self.rng.randrange(4)


def open_devices(keeper: Scheduler | Roster, seed: int, sampling: SamplingParams) -> list[Device]:
    devices = []
    for n in range(4):
        prompt = [n + 1, 2, 3]
        request: OpenRequest = replace(open_request(prompt), sampling=sampling)
        devices.append(Device(keeper.open(request, 0.0).key, prompt, random.Random(10 * seed + n)))
    return devices


def write(
    keeper: Scheduler | Roster,
    devices: Sequence[Device],
    step: Callable[[float], list[Outcome]],
    turns: int,
) -> int:
    """Let so many steps pass; returns how many drafts were answered without one."""
    at_once = 0
    by_key = {device.key: device for device in devices}
    for turn in range(turns):
        for device in devices:
            while device.due == turn:
                device.due = -1
                draft = draft_request(device.prompt, device.written, device.make())
                answer = keeper.submit(device.key, draft, float(turn))
                if answer is not None:
                    assert isinstance(answer, Outcome)
                    assert isinstance(answer.result, RoundVerdict)
                    at_once += bool(device.written)
                    device.take(answer.result, turn)
        for outcome in step(float(turn)):
            assert isinstance(outcome.result, RoundVerdict)
            by_key[outcome.key].take(outcome.result, turn + 1)
    return at_once


def steps_of(bench: Bench) -> Callable[[float], list[Outcome]]:
    def step(now: float) -> list[Outcome]:
        job = bench.scheduler.plan(now)
        return [] if job is None else bench.scheduler.apply(job, run_job(bench.engine, job), now)

    return step


def check_texts(
    keeper: Scheduler | Roster, step: Callable[[float], list[Outcome]], seed: int
) -> None:
    devices = open_devices(keeper, seed, SamplingParams())
    at_once = write(keeper, devices, step, 25)
    assert at_once > 3
    assert keeper.foretold_tokens > at_once
    for device in devices:
        assert len(device.written) > 20
        assert device.written == list(TARGET.greedy(device.prompt, len(device.written)))


@pytest.mark.parametrize("seed", range(8))
def test_texts_are_the_targets_own_on_the_batched_scheduler(seed: int) -> None:
    bench = Bench()
    check_texts(bench.scheduler, steps_of(bench), seed)


@pytest.mark.parametrize("seed", range(8))
def test_texts_are_the_targets_own_on_a_runtime_that_batches_itself(seed: int) -> None:
    runtime = FakeRuntime(model=TARGET)
    roster = Roster(runtime.info, Limits(max_draft_tokens=8))

    def step(now: float) -> list[Outcome]:
        order = roster.order(now)
        return [] if order is None else roster.apply(order, runtime.run(order), now)

    check_texts(roster, step, seed)


def test_match_mode_gives_the_text_that_the_seed_gives_whoever_is_carried_along() -> None:
    sampling = SamplingParams(temperature=1.0, mode=AcceptanceMode.MATCH, seed=7)
    found = []
    for foretell in (False, True):
        bench = Bench(control=LoadControl(8, LoadSettings(foretell=foretell)))
        devices = open_devices(bench.scheduler, 3, sampling)
        write(bench.scheduler, devices, steps_of(bench), 25)
        assert (bench.scheduler.foretold_tokens > 0) is foretell
        found.append([device.written for device in devices])
    for alone, carried in zip(*found, strict=True):
        both = min(len(alone), len(carried))
        assert both > 10
        assert alone[:both] == carried[:both]
