"""Load-aware verification as a backend uses it: hints, trimming, probing, deadlines, and what it learns."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence

import pytest

from sled_protocol.distribution import point_mass
from sled_speculation.sampling import AcceptanceMode, SamplingParams
from sled_speculation.step_cost import StepShape
from sled_verifier.load_control import (
    CHECK_STEPS,
    LOOK_ROUNDS,
    MOST_UNLEARNT_STEPS,
    PROBE_ROUNDS,
    Candidate,
    LoadControl,
    LoadSettings,
    confidences_of,
)
from sled_verifier.rounds import DraftRequest, Load, OpenRequest, RoundVerdict

SEQUENCES = 8


def opening(device: str = "d", model: str = "m") -> OpenRequest:
    return OpenRequest(device, array("I", [1]), array("I"), SamplingParams(), draft_model=model)


def verdict(verified: int, accepted: int) -> RoundVerdict:
    return RoundVerdict(0, accepted, verified, 1, accepted == verified, 0.0, 0.0, 0, Load())


def a_draft(length: int, confidences: tuple[float, ...] = ()) -> DraftRequest:
    return DraftRequest(0, 0, (1,) * length, confidences=confidences)


def candidate(
    key: int,
    length: int = 8,
    confidences: tuple[float, ...] = (),
    sampling: SamplingParams | None = None,
    deadline: float = 1e9,
) -> Candidate:
    sampling = sampling or SamplingParams()
    return Candidate(key, a_draft(length, confidences), sampling, 100, deadline)


def a_control(
    *,
    token_seconds: float,
    idle_share: float = 0.0,
    settings: LoadSettings | None = None,
    rate: float = 0.8,
) -> LoadControl:
    """After 200 steps of eight sequences at this cost and load, drafts accepted at this rate."""
    control = LoadControl(8, settings)
    rng = random.Random(1)
    for key in range(SEQUENCES):
        control.opened(key, opening(f"d{key}"))
    now = 0.0
    for step in range(200):
        tokens = SEQUENCES * (1 + step % 6)
        seconds = 0.02 + token_seconds * tokens
        now += seconds / (1 - idle_share)
        control.stepped(StepShape(tokens, SEQUENCES, 800), SEQUENCES, seconds, now)
        for key in range(SEQUENCES):
            accepted = next((n for n in range(8) if rng.random() > rate), 8)
            control.judged(key, a_draft(8), verdict(8, accepted))
    return control


def choose(control: LoadControl, *candidates: Candidate, room: int = 1000) -> tuple[int, ...]:
    return control.choose(candidates, prefill_tokens=0, max_draft_tokens=room, now=0.0)


# ---- what devices are told


def test_without_experience_everything_is_allowed() -> None:
    control = LoadControl(8)
    control.opened(1, opening())
    assert control.hint(1) == 8
    assert choose(control, candidate(1)) == (8,)


def test_an_engine_with_time_to_spare_does_not_hold_anybody_back() -> None:
    assert a_control(token_seconds=0.001, idle_share=0.8).hint(0) == 8


def test_nearly_free_tokens_are_worth_drafting_at_full_load() -> None:
    control = a_control(token_seconds=1e-6)
    assert control.hint(0) == 8
    assert choose(control, *(candidate(key) for key in range(8))) == (8,) * 8


def test_where_arithmetic_is_the_limit_drafting_is_not_worth_it() -> None:
    control = a_control(token_seconds=0.05)
    assert control.hint(0) == 0
    assert choose(control, *(candidate(key) for key in range(8))) == (0,) * 8


def test_between_the_two_the_hint_is_between() -> None:
    costs = (1e-5, 3e-4, 1e-3, 3e-3, 1e-2, 5e-2)
    lengths = [a_control(token_seconds=cost).hint(0) for cost in costs]
    assert lengths == sorted(lengths, reverse=True)
    assert any(0 < length < 8 for length in lengths)


def test_steps_that_are_all_alike_teach_nothing() -> None:
    control = LoadControl(8)
    control.opened(1, opening())
    for step in range(200):
        control.stepped(StepShape(40, 8, 100), 8, 0.1, 0.1 * (step + 1))
        control.judged(1, a_draft(8), verdict(8, 4))
    assert control.hint(1) == 8


def test_a_measurement_at_the_start_is_enough_to_know_the_cost() -> None:
    control = LoadControl(8)
    control.measured([(StepShape(n, 8, 0), 0.001 * n) for n in (8, 16, 32, 64)])
    control.opened(1, opening())
    for step in range(40):
        control.stepped(StepShape(8, 8, 100), 8, 0.008, 0.008 * (step + 1))
    assert control.hint(1) == 0


# ---- what is verified


def test_each_device_is_judged_by_its_own_acceptance() -> None:
    control = a_control(token_seconds=0.002)
    for _ in range(60):
        control.judged(0, a_draft(8), verdict(8, 8))
        control.judged(1, a_draft(8), verdict(8, 0))
    good, bad = choose(control, candidate(0), candidate(1))
    assert good > bad
    assert control.hint(0) > control.hint(1)


def test_what_the_drafter_is_unsure_of_is_trimmed_once_that_has_proved_telling() -> None:
    control = a_control(token_seconds=0.002)
    for _ in range(100):
        control.judged(2, a_draft(2, (0.99, 0.99)), verdict(2, 2))
        control.judged(3, a_draft(1, (0.25,)), verdict(1, 0))
    kept = choose(control, candidate(0, 4, (0.99,) * 4), candidate(1, 4, (0.99, 0.99, 0.25, 0.99)))
    assert kept == (4, 2)


def test_a_full_step_still_has_one_token_for_everybody() -> None:
    control = a_control(token_seconds=1e-6)
    assert sum(choose(control, *(candidate(key) for key in range(8)), room=10)) == 10
    assert choose(LoadControl(8), candidate(1), candidate(2), room=3) == (3, 0)


def test_a_step_grows_by_twice_at_most_until_its_cost_is_known() -> None:
    """At a load that is new nothing larger than a step without drafts was seen, however cheap it looks from other loads."""
    control = a_control(token_seconds=1e-5, rate=0.95)
    crowd = [candidate(key) for key in range(100, 132)]
    for key in range(100, 132):
        control.opened(key, opening())
    sizes = []
    for step in range(4):
        verified = choose(control, *crowd)
        tokens = 32 + sum(verified)
        sizes.append(tokens)
        control.stepped(StepShape(tokens, 32, 3200), 32, 0.05 + 1e-5 * tokens, 1e4 + step)
    assert sizes == [64, 128, 256, 288]


def test_a_deadline_shortens_drafts() -> None:
    urgent = [candidate(key, deadline=0.04 if key == 0 else 1e9) for key in range(8)]
    control = a_control(token_seconds=0.0005)
    assert sum(choose(control, *urgent)) < sum(choose(control, *(candidate(k) for k in range(8))))
    off = a_control(token_seconds=0.0005, settings=LoadSettings(trim=False, meet_deadlines=False))
    assert choose(off, *urgent) == (8,) * 8
    only = a_control(token_seconds=0.0005, settings=LoadSettings(trim=False))
    assert 0 < sum(choose(only, *urgent)) < 64


def test_switched_off_it_trims_nothing_and_hints_at_the_limit() -> None:
    control = a_control(token_seconds=0.05, settings=LoadSettings(trim=False))
    assert choose(control, candidate(0)) == (8,)
    assert control.hint(0) == 8


def test_a_drawn_token_is_not_looked_at() -> None:
    """In rejection mode the same distributions give the same choice, whatever was drawn."""
    sampling = SamplingParams(temperature=1.0, mode=AcceptanceMode.REJECTION)
    control = a_control(token_seconds=0.002)
    given = tuple(point_mass(t) for t in (3, 4, 5))
    drafts = [
        DraftRequest(0, 0, tokens, given, confidences=(c,) * 3)
        for tokens, c in (((3, 4, 5), 0.9), ((3, 4, 6), 0.1))
    ]
    chosen = {choose(control, Candidate(0, draft, sampling, 9, 1e9)) for draft in drafts}
    assert len(chosen) == 1
    assert confidences_of(drafts[0]) == confidences_of(drafts[1]) == (1.0, 1.0, 1.0)


# ---- what is learnt


def test_where_drafts_do_not_pay_one_is_tried_from_time_to_time() -> None:
    control = a_control(token_seconds=0.01, rate=0.2)
    hints = []
    for step in range(3 * PROBE_ROUNDS):
        hint = control.hint(0)
        verified = choose(control, candidate(0, hint))[0] if hint else 0
        assert verified == hint
        hints.append(hint)
        run_step(control, (0,), verified, step)
    assert 2 <= sum(hints) <= 4
    assert max(hints) == 1


def run_step(control: LoadControl, keys: Sequence[int], verified: int, step: int) -> None:
    """A step of a machine on which every token costs the same; no draft token is accepted."""
    tokens = len(keys) * (1 + verified)
    shape, seconds = StepShape(tokens, len(keys), 100 * len(keys)), 0.02 + 0.02 * tokens
    control.stepped(shape, len(keys), seconds, 1e3 + step * seconds)
    for key in keys:
        control.judged(key, a_draft(verified), verdict(verified, 0))


def test_those_who_are_due_for_a_chance_get_it_in_one_step() -> None:
    control = a_control(token_seconds=0.01, rate=0.2)
    keys = range(SEQUENCES)
    with_chances = []
    for step in range(3 * PROBE_ROUNDS):
        # Their last chances were not at the same time.
        for key in keys:
            if step == key:
                control.judged(key, a_draft(1), verdict(1, 0))
        counts = choose(control, *(candidate(key, control.hint(key)) for key in keys))
        if any(counts):
            with_chances.append(sum(counts))
        run_step(control, keys, max(counts), step)
    assert len(with_chances) <= 3
    assert max(with_chances) >= SEQUENCES - 1


def test_where_nothing_could_pay_something_is_hardly_ever_tried() -> None:
    """Never would be wrong: what drafts cost may be misjudged, and steps without them cannot tell."""
    control = a_control(token_seconds=10.0)
    hints = []
    for step in range(3 * LOOK_ROUNDS):
        hints.append(control.hint(0))
        verified = choose(control, candidate(0, hints[-1]))[0]
        shape = StepShape(1 + verified, 1, 100)
        control.stepped(shape, 1, 0.02 + 10.0 * verified, 1e3 + step)
        control.judged(0, a_draft(verified), verdict(verified, 0))
    assert 1 <= sum(hints) <= 3
    assert max(hints) == 1


def test_where_drafts_are_dear_a_step_without_them_is_looked_at_now_and_then() -> None:
    control = a_control(token_seconds=0.002)
    assert control.price > 0.3
    counts = []
    for step in range(3 * (CHECK_STEPS + 1)):
        chosen = sum(choose(control, *(candidate(key) for key in range(SEQUENCES))))
        counts.append(chosen)
        tokens = SEQUENCES + chosen
        control.stepped(StepShape(tokens, SEQUENCES, 800), SEQUENCES, 0.1, 1e3 + step * 0.1)
    assert counts.count(0) == 3
    cheap = a_control(token_seconds=1e-6)
    for step in range(2 * CHECK_STEPS):
        assert sum(choose(cheap, *(candidate(key) for key in range(SEQUENCES)))) == 64
        cheap.stepped(StepShape(72, SEQUENCES, 800), SEQUENCES, 0.02, 1e3 + step * 0.02)


def test_what_is_known_of_this_load_counts_and_not_of_the_mean_load() -> None:
    """Of eight sequences it is known what a step costs without drafts; after a quiet time the mean load is less for a while."""
    control = a_control(token_seconds=0.002)
    now = 1e3
    counts: dict[int, list[int]] = {4: [], SEQUENCES: []}
    for sequences in [4] * 30 + [SEQUENCES] * (2 * CHECK_STEPS):
        chosen = sum(choose(control, *(candidate(key) for key in range(sequences))))
        counts[sequences].append(chosen)
        seconds = 0.02 + 0.002 * (sequences + chosen)
        now += seconds
        shape = StepShape(sequences + chosen, sequences, 100 * sequences)
        control.stepped(shape, sequences, seconds, now)
    assert counts[4].count(0) > 1
    assert counts[SEQUENCES].count(0) <= 3


def test_a_machine_that_changed_is_known_again_by_its_own_steps() -> None:
    """Drafts that paid no longer do: a step with them takes longer, and one without does not."""
    control = a_control(token_seconds=0.002)
    now = 1e3
    totals = []
    for _ in range(12 * CHECK_STEPS):
        chosen = sum(choose(control, *(candidate(key) for key in range(SEQUENCES))))
        totals.append(chosen)
        seconds = 0.036 + 0.02 * chosen
        now += seconds
        shape = StepShape(SEQUENCES + chosen, SEQUENCES, 800)
        control.stepped(shape, SEQUENCES, seconds, now)
    assert totals[0] > 0
    assert sum(totals[-CHECK_STEPS:]) == 0


def test_a_bad_stretch_is_forgotten() -> None:
    control = a_control(token_seconds=0.001)
    for _ in range(60):
        control.judged(0, a_draft(8), verdict(8, 0))
    assert control.hint(0) < control.hint(1)
    for _ in range(60):
        control.judged(0, a_draft(0), verdict(0, 0))
    assert control.hint(0) == pytest.approx(control.hint(1), abs=2)


def test_closed_and_unknown_sequences_are_harmless() -> None:
    control = LoadControl(8)
    control.opened(1, opening())
    control.closed(1)
    control.closed(1)
    control.judged(1, a_draft(2), verdict(2, 1))
    assert control.hint(1) == 8
    assert choose(control, candidate(1)) == (8,)


def test_draft_models_and_devices_without_end_take_bounded_memory() -> None:
    control = LoadControl(8)
    for key in range(6000):
        control.opened(key, opening(f"device-{key}", f"model-{key}"))
        control.closed(key)
    assert control.book.sizes() == (4096, 65, 0)


# ---- what steps cost


def test_cheap_tokens_of_prompts_do_not_make_long_drafts_look_cheap() -> None:
    control = a_control(token_seconds=0.004)
    for n in range(MOST_UNLEARNT_STEPS):
        control.stepped(StepShape(60, 2, 0), n % 2, 0.021, 1e3 + n)
    known = control.steps.cost()
    assert known is not None
    assert known.seconds(StepShape(60, SEQUENCES, 800)) > 0.2


def test_where_every_step_has_prompts_they_teach() -> None:
    control = LoadControl(8)
    for n in range(2 * MOST_UNLEARNT_STEPS):
        control.stepped(StepShape(10 + 10 * (n % 2), 3, 0), 1, 0.01 + 0.01 * (n % 2), 0.1 * n)
    assert control.steps.cost() is not None


@pytest.mark.parametrize("even", [True, False])
def test_a_step_for_which_the_engine_prepared_itself_teaches_nothing(even: bool) -> None:
    control = LoadControl(8)
    control.even = even
    control.measured((StepShape(n, 8, 800), 0.1) for n in (8, 16, 40, 72))
    for size in (18, 20, 22, 26, 28, 30):
        control.stepped(StepShape(size, 8, 800), 8, 0.3, now=1.0)
    cost = control.steps.cost()
    assert cost is not None
    assert (cost.seconds(StepShape(24, 8, 800)) < 0.12) is even
    for _ in range(20):
        control.stepped(StepShape(24, 8, 800), 8, 0.3, now=1.0)
    cost = control.steps.cost()
    assert cost is not None
    assert cost.seconds(StepShape(24, 8, 800)) > 0.15
